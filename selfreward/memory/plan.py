"""The memory plan: how a run's work is cut so that it fits, and the refusal of what can't fit, before anything loads.

The plan never changes what is made: not the batch of a step, not the longest text, not the type of number.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from selfreward import cap
from selfreward.cap import GIB
from selfreward.config import RunConfig
from selfreward.engines.base import SHORTEN
from selfreward.errors import ConfigError
from selfreward.memory.costs import SERVER_GIB, Costs, Lengths, Parts
from selfreward.memory.remedies import LEAST_SCORED, checkpointings, halves, nearest, needed, tenth_up
from selfreward.training.losses import LOSSES

_SERVED_BLOCK = 128  # tokens: vLLM hands out room for keys and values in blocks, of 128 at most
_SAMPLING_ROWS = {"cpu": 64, "cuda": 1024}


@dataclass(frozen=True)
class TrainingFit:
    """How training is cut, and the bytes that it will take in all."""

    micro_batch: int
    gradient_checkpointing: bool
    parts: Parts

    @property
    def total(self) -> int:
        return sum(self.parts.values())


class Plan:
    """How each phase of a run is cut. Sizes that the settings leave open are chosen to fit.

    Args:
        config: the model's configuration, as transformers reads it.
        cfg: the run's settings.
        device: `cpu`, `cuda` or `mps`.
        limit_gb: GiB that may be taken; by default `memory.cap_gb` on CUDA, else `memory.ram_gb` or what there is.
        available_gb: GiB that this process could take, where it is to run here: of a GPU never more than these.
        like: a plan for the same run with another limit, whose costs hold here too.

    Raises `ConfigError` for what does not fit, with the nearest setting that would.
    """

    def __init__(
        self,
        config: Any,
        cfg: RunConfig,
        device: str,
        *,
        limit_gb: float | None = None,
        available_gb: float | None = None,
        like: Plan | None = None,
    ) -> None:
        self._cfg = cfg
        self._kind = "cuda" if device == "cuda" else "cpu"
        self.costs = like.costs if like else Costs(config, cfg, self._kind)
        self.limit_key = "memory.cap_gb" if self._kind == "cuda" else "memory.ram_gb"
        there = available_gb or (cap.available_gb("cpu") if self.on_cpu else math.inf)
        self._wanted_gb = limit_gb or (cfg.memory.ram_gb if self.on_cpu else cfg.memory.cap_gb) or there
        self.limit_gb = self._wanted_gb if self.on_cpu else min(self._wanted_gb, there)
        self._is_small = self.limit_gb < self._wanted_gb  # the GPU: then a larger cap would help nobody

    @property
    def limit_name(self) -> str:
        """What sets the limit."""
        return "free on the GPU" if self._is_small else self.limit_key

    @property
    def preflight(self) -> bool:
        """Whether the longest batch is tried first: where there is a limit that somebody set."""
        return self._kind == "cuda" or self._cfg.memory.ram_gb is not None

    def check(self) -> None:
        """Raise `ConfigError` where the longest text that the settings allow would not fit."""
        self.fit_training(self.costs.longest_batch)
        self.fit_longest_examples()
        _ = self.sampling_rows, self.scoring_tokens

    def fit_longest_examples(self) -> TrainingFit | None:
        """How tuning would be cut where each example is as long as the settings allow; None for a run that doesn't."""
        return self._fit_examples(self.costs.longest_examples) if self._cfg.tunes else None

    def fit_tuning(self, examples: Sequence[tuple[int, int]]) -> TrainingFit:
        """Micro-batch and checkpointing for examples of these lengths (prompt, completion), each taken for a pair that
        rejects one token."""
        return self._fit_examples([(*lengths, 1) for lengths in examples])

    def fit_training(self, pairs: Sequence[Lengths]) -> TrainingFit:
        """Micro-batch and checkpointing for pairs of these lengths (prompt, chosen, rejected).

        Checkpointing is dearer than a small micro-batch, so it comes last; and past some thousand tokens a larger
        micro-batch is no faster.
        """
        longest, batch_size = sorted(pairs, key=sum, reverse=True), self._cfg.train.batch_size
        step = min(batch_size, len(pairs))
        enough = max(self.costs.micro_batch_tokens // max(sum(longest[0]), 1), 1)

        def cost(size: int, checkpointing: bool) -> Parts:
            micro_batch = [longest[i % len(longest)] for i in range(size)]
            return self.costs.training(micro_batch, checkpointing=checkpointing, later=size < step)

        couples = LOSSES[self._cfg.train.loss].couples_pairs
        return self._fit([batch_size] if couples else self._sizes(min(step, enough)), cost)

    def _fit_examples(self, examples: Sequence[Lengths]) -> TrainingFit:
        step = sorted(examples, key=sum, reverse=True)[: self._cfg.tuning.batch_size]
        return self._fit(self._sizes(len(step)), partial(self.costs.tuning, step))

    def _sizes(self, most: int) -> list[int]:
        """Sizes of a micro-batch to try, the largest first."""
        return [self._cfg.memory.micro_batch] if self._cfg.memory.micro_batch else list(range(most, 0, -1))

    def _fit(self, sizes: Sequence[int], cost: Callable[[int, bool], Parts]) -> TrainingFit:
        """The first size that fits, of what a micro-batch costs by its size and whether it is checkpointed.

        A cost is found by tracing a step: so the largest is tried first, which mostly fits, and of those between it
        and the smallest, only where that one fits, as few as it takes.
        """
        too_large: list[TrainingFit] = []
        for checkpointing in checkpointings(self._cfg.memory.gradient_checkpointing):

            def tried(size: int, checkpointing: bool = checkpointing) -> TrainingFit:
                return TrainingFit(size, checkpointing, cost(size, checkpointing))

            largest, smallest = sizes[0], sizes[-1]
            if self._holds((most := tried(largest)).total):
                return most
            if not self._holds((least := tried(smallest)).total):
                too_large.append(least)
                continue
            between = sizes[1:-1]
            place = bisect_left(between, True, key=lambda size: self._holds(tried(size).total))
            return tried(between[place]) if place < len(between) else least
        raise self._refusal("training", min(fit.total for fit in too_large))

    @property
    def sampling_rows(self) -> int:
        """Answers decoded side by side."""
        wanted = self._cfg.memory.sampling_rows
        return self._largest("sampling", wanted, _SAMPLING_ROWS[self._kind], self._cfg.sampling.n, self.costs.sampling)

    @property
    def sampling(self) -> Parts:
        """Bytes of decoding so many answers."""
        parts = self.costs.sampling(self.sampling_rows)
        with_copy = parts | {"blocked weights": self.costs.blocked_weight_bytes}
        wanted = self._cfg.speed.blocked_weights and self.on_cpu
        return with_copy if parts and wanted and self._holds(sum(with_copy.values())) else parts

    @property
    def blocked_weights(self) -> bool:
        """Whether decoding keeps a second copy of the layers' weights: on a CPU, where it fits."""
        return "blocked weights" in self.sampling

    @property
    def scoring_tokens(self) -> int:
        """Tokens in one scoring batch, padding included."""
        wanted = self._cfg.memory.scoring_tokens
        return self._largest("scoring", wanted, self.costs.most_scored, LEAST_SCORED, self.costs.scoring)

    @property
    def on_cpu(self) -> bool:
        """Whether the device has no memory of its own."""
        return self._kind == "cpu"

    @property
    def served_gb(self) -> float:
        """GiB of the GPU that a server that the run starts finds free, at the least: it looks when its own context, and
        more of this process's, is there already."""
        return max(self.limit_gb - SERVER_GIB, 0)

    def longest_served(self) -> int:
        """Tokens of the longest text that a server that the run starts must take."""
        return self.costs.longest_served

    def served_cache(self, concurrency: int) -> int:
        """Bytes of keys and values for a server that the run starts: room for `concurrency` texts of the longest kind,
        or for as many as fit beside the weights.

        Raises `ConfigError` where not even one fits.
        """
        blocks = -(-self.longest_served() // _SERVED_BLOCK) + 1  # vLLM keeps one for itself
        one = self.costs.cache_bytes(blocks * _SERVED_BLOCK)
        others = sum(self.costs.serving(concurrency).values())
        left = int(self.limit_gb * GIB) - others
        if left < one:
            remedy = SHORTEN if self._is_small else f"set {self.limit_key}={tenth_up(others + one):g}, or {SHORTEN}"
            raise self._over(f"a vLLM server needs {tenth_up(others + one):g} GiB", remedy)
        return min(left, concurrency * one)

    def _largest(self, phase: str, wanted: int | None, most: int, least: int, cost: Callable[[int], Parts]) -> int:
        for size in [wanted] if wanted else [n for n in (most, *halves(most)) if n > least] + [least]:
            if self._holds(sum(cost(size).values())):
                return size
        raise self._refusal(phase, sum(cost(wanted or least).values()))

    def _holds(self, total: int) -> bool:
        return total <= self.limit_gb * GIB

    def _refusal(self, phase: str, taken: int) -> ConfigError:
        remedy = nearest(self.costs, int(self.limit_gb * GIB))
        more = None if self._is_small else f"{self.limit_key}={tenth_up(needed(self.costs)):g}"
        choices = " or ".join(choice for choice in (remedy, more) if choice) or "a smaller model, or a larger GPU"
        return self._over(f"{phase} needs {tenth_up(taken):g} GiB", f"use {choices}")

    def _over(self, needs: str, remedy: str) -> ConfigError:
        """The refusal of what does not fit."""
        if self._is_small:
            free = f", and {self.limit_gb:.4g} of this GPU are free"
            return ConfigError(self.limit_key, f"{self._wanted_gb:g}", f"{needs}{free}; {remedy}")
        return ConfigError(self.limit_key, f"{self.limit_gb:.4g}", f"{needs}; {remedy}")
