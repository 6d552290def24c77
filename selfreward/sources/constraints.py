"""Requests with constraints that code can check: as many as are asked for, and a check of each that is right."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from pathlib import Path
from random import Random

from selfreward.config import DataConfig, PromptsConfig, listed
from selfreward.errors import ConfigError
from selfreward.records import Prompt, prompt_id
from selfreward.rows import Skipped
from selfreward.simulation import conflicts, constraints, prose, requests
from selfreward.simulation.checks import dump
from selfreward.simulation.constraints import KINDS
from selfreward.sources.pool import HELD_OUT_SEED, EndlessPool, draw_distinct, identify
from selfreward.store.identity import digest, file_sha256

SEEN, UNSEEN = "seen", "unseen"
"""Categories: whether the kinds of a request's constraints come in training too."""


def load(cfg: PromptsConfig, data: DataConfig) -> EndlessPool:
    """Requests without end. Of those held out, the second half has constraints of `unseen_kinds` alone.

    What the words and the checks are is the identity: the bytes of the files that hold them.

    Raises `ConfigError` for a kind that isn't there, or when none is left to train on.
    """
    unseen = {*listed(cfg.unseen_kinds)}
    if unknown := sorted(unseen - KINDS.keys()):
        raise ConfigError("prompts.unseen_kinds", cfg.unseen_kinds, f"no {unknown[0]}; there are {', '.join(KINDS)}")
    seen = KINDS.keys() - unseen
    if not seen:
        raise ConfigError("prompts.unseen_kinds", cfg.unseen_kinds, "no kind is left to train on; name fewer")
    files = [file_sha256(Path(str(module.__file__))) for module in (conflicts, constraints, prose, requests)]
    content = digest([*files, cfg.most_constraints, sorted(unseen)])
    draw = partial(_draw, kinds=seen, category=SEEN, most=cfg.most_constraints)
    apart = cfg.held_out // 2 if unseen else 0
    held_out = draw_distinct(draw, cfg.held_out - apart, HELD_OUT_SEED, "prompts.held_out")
    if unseen:
        draw_unseen = partial(_draw, kinds=unseen, category=UNSEEN, most=cfg.most_constraints)
        held_out |= draw_distinct(draw_unseen, apart, HELD_OUT_SEED, "prompts.held_out", held_out)
    return EndlessPool(identify(cfg, content), [], list(held_out.values()), Skipped(), draw)


def _draw(random: Random, *, kinds: Collection[str], category: str, most: int) -> Prompt:
    text, checks = requests.draw(random, kinds, most)
    return Prompt(prompt_id(text), text, category, dump(checks))
