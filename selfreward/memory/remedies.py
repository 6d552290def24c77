"""What to change where a run doesn't fit: the nearest settings under which all of it would, each of them tried."""

from __future__ import annotations

import copy
import math
from bisect import bisect_left
from typing import Any

from selfreward.cap import GIB
from selfreward.config import RunConfig
from selfreward.memory.costs import Costs
from selfreward.training.losses import LOSSES

LEAST_SCORED = 256
"""Tokens in a scoring batch, at least."""

Change = dict[str, Any]
"""Values by their keys: `{"memory.micro_batch": 1}`."""


def needed(costs: Costs) -> int:
    """Bytes that the whole run takes at the least, its settings being as they are."""
    cfg, pairs, examples = costs.cfg, costs.longest_batch, costs.longest_examples
    size, ways = cfg.memory.micro_batch or 1, checkpointings(cfg.memory.gradient_checkpointing)
    at_once = pairs if LOSSES[cfg.train.loss].couples_pairs else pairs[:size]
    later = len(at_once) < len(pairs)
    phases = [
        [costs.training(at_once, checkpointing=way, later=later) for way in ways],
        [costs.tuning(examples, size, way) for way in ways] if cfg.tunes else [],
        [costs.sampling(cfg.memory.sampling_rows or cfg.sampling.n)],
        [costs.scoring(cfg.memory.scoring_tokens or LEAST_SCORED)],
    ]
    return max(min(sum(parts.values()) for parts in phase) for phase in phases if phase)


def checkpointings(wanted: bool | None) -> list[bool]:
    """Without gradient checkpointing first, unless it is set."""
    return [False, True] if wanted is None else [wanted]


def nearest(costs: Costs, limit: int) -> str | None:
    """The settings to use, `key=value key=value`, under which the run takes no more than `limit` bytes, if any.

    Of the first group whose least value is enough, the nearest that is; else the least values of several together.
    """

    def fits(change: Change) -> bool:
        return needed(costs.under(_changed(costs.cfg, change))) <= limit

    groups = _groups(costs)
    for group in groups:  # in which each takes less than the one before
        if fits(group[-1]):
            return _shown(group[bisect_left(group, True, key=fits)])
    together: Change = {}
    for *_, least in groups:
        together |= least
        if fits(together):
            for key in list(together):
                without = {other: value for other, value in together.items() if other != key}
                together = without if fits(without) else together
            return _shown(together)
    return None


def tenth_up(amount: int) -> float:
    """Bytes as GiB, to the tenth above."""
    return math.ceil(amount / GIB * 10 + 1e-9) / 10


def halves(size: int) -> list[int]:
    return [size >> shift for shift in range(1, size.bit_length())]


def _groups(costs: Costs) -> list[list[Change]]:
    """What could be changed, from what costs only time to what changes the result; in each the nearest first."""
    memory, train, sampling = costs.cfg.memory, costs.cfg.train, costs.cfg.sampling
    rows = [{"memory.sampling_rows": n} for n in halves(memory.sampling_rows or 0) if n >= sampling.n]
    tokens = [{"memory.scoring_tokens": n} for n in halves(memory.scoring_tokens or 0) if n >= LEAST_SCORED]
    smallest = [{"memory.micro_batch": 1, "memory.gradient_checkpointing": True}]
    quantised = [{"train.quantization": "nf4"}] if costs.kind == "cuda" and train.quantization == "none" else []
    answered = sampling.max_prompt_tokens + sampling.max_new_tokens
    shorter = [{"train.max_length": n} for n in _eighths(train.max_length, answered)]
    lengths = _eighths(costs.cfg.tuning.max_length, 2) if costs.cfg.tunes else []
    examples = [{"tuning.max_length": n} for n in lengths]
    couples = LOSSES[train.loss].couples_pairs
    return [group for group in (rows, tokens, [] if couples else smallest, examples, shorter, quantised) if group]


def _eighths(longest: int, least: int) -> list[int]:
    """Shorter lengths by eighths, none below `least`, the longest first."""
    lengths = sorted({max(longest * part // 8, least) for part in range(1, 8)}, reverse=True)
    return [length for length in lengths if length < longest]


def _changed(cfg: RunConfig, change: Change) -> RunConfig:
    changed = copy.deepcopy(cfg)
    for key, value in change.items():
        group, name = key.split(".")
        setattr(getattr(changed, group), name, value)
    return changed


def _shown(change: Change) -> str:
    return " ".join(f"{key}={str(value).lower()}" for key, value in change.items())
