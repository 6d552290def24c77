"""The memory plan: what a run will take, before anything loads, and how its work is cut so that it fits.

The plan never changes what is made: not the batch of a step, not the longest text, not the type of number.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import psutil

from selfreward.cap import CONTEXT_GIB, GIB
from selfreward.config import RunConfig
from selfreward.errors import ConfigError
from selfreward.head import CHUNK_BYTES
from selfreward.memory.trace import Skeleton
from selfreward.models import fresh_adapter
from selfreward.training.losses import LOSSES

LIBRARIES_GIB = 0.8
"""What Python, PyTorch and the other libraries hold of main memory before a model is loaded, in GiB."""

NF4_BYTES = 0.516
"""Bytes a weight in NF4 with doubly quantised constants (QLoRA, arXiv 2305.14314, section 3: 4.127 bits)."""

_STEP_TOKENS = {"cpu": 1024, "cuda": 16384}  # a micro-batch of more is no faster
_LEAST_SCORED = 256  # tokens
_SAMPLING_ROWS = {"cpu": 64, "cuda": 256}
_SCORING_TOKENS = {"cpu": 2048, "cuda": 32768}  # on a CPU, larger batches fall out of its caches

Parts = dict[str, int]
"""Bytes by what they are for."""


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
    """What each phase of a run takes. Lengths and sizes that the settings leave open are chosen to fit.

    Args:
        config: the model's configuration, as transformers reads it.
        cfg: the run's settings.
        device: `cpu`, `cuda` or `mps`.
        limit_gb: GiB that may be taken; by default `memory.cap_gb` on CUDA, else `memory.ram_gb` or what there is.

        like: a plan for the same model and adapter, whose tracing is used again; a refusal then gives no advice.

    Raises `ConfigError` for what does not fit, with the nearest setting that would.
    """

    def __init__(
        self, config: Any, cfg: RunConfig, device: str, limit_gb: float | None = None, like: Plan | None = None
    ) -> None:
        self._advises = like is None
        self._config = config
        self._cfg = cfg
        self._text = config.get_text_config()
        self._kind = "cuda" if device == "cuda" else "cpu"
        adapter, eager = fresh_adapter(cfg.train.lora), self._kind == "cpu"
        self._skeleton = (
            like._skeleton if like else Skeleton(config, cfg.model.dtype, adapter, eager=eager, speed=cfg.speed)
        )
        self.limit_key = "memory.cap_gb" if self._kind == "cuda" else "memory.ram_gb"
        self.limit_gb = limit_gb or self._default_limit()

    @property
    def preflight(self) -> bool:
        """Whether the longest batch is tried first: where there is a limit that somebody set."""
        return self._kind == "cuda" or self._cfg.memory.ram_gb is not None

    def check(self) -> None:
        """Raise `ConfigError` where the longest text that the settings allow would not fit."""
        self.fit_training(self.longest_batch)
        _ = self.sampling_rows, self.scoring_tokens

    # What is chosen

    def fit_training(self, pairs: Sequence[tuple[int, int, int]]) -> TrainingFit:
        """Micro-batch and checkpointing for pairs of these lengths (prompt, chosen, rejected).

        Checkpointing is dearer than a small micro-batch, so it comes last; and past some thousand tokens a larger
        micro-batch is no faster.
        """
        memory = self._cfg.memory
        longest = sorted(pairs, key=sum, reverse=True)
        whole = min(self._cfg.train.batch_size, len(longest))
        if LOSSES[self._cfg.train.loss].couples_pairs:
            sizes = [self._cfg.train.batch_size]
        elif memory.micro_batch:
            sizes = [memory.micro_batch]
        else:
            enough = max(_STEP_TOKENS[self._kind] // max(sum(longest[0]), 1), 1)
            sizes = [size for size in range(whole, 0, -1) if size <= enough]
        wanted = memory.gradient_checkpointing
        fits: list[TrainingFit] = []
        for checkpointing in [False, True] if wanted is None else [wanted]:
            for size in sizes:
                batch = [longest[i % len(longest)] for i in range(size)]
                fits.append(
                    TrainingFit(
                        size, checkpointing, self.training(batch, checkpointing=checkpointing, later=size < whole)
                    )
                )
                if self._holds(fits[-1].total):
                    return fits[-1]
        raise self._refusal("training", min(fits, key=lambda fit: fit.total).total)

    @cached_property
    def sampling_rows(self) -> int:
        """Answers decoded side by side."""
        wanted = self._cfg.memory.sampling_rows
        return self._largest("sampling", wanted, _SAMPLING_ROWS[self._kind], self._cfg.sampling.n, self.sampling)

    @cached_property
    def scoring_tokens(self) -> int:
        """Tokens in one scoring batch, padding included."""
        wanted = self._cfg.memory.scoring_tokens
        return self._largest("scoring", wanted, _SCORING_TOKENS[self._kind], _LEAST_SCORED, self.scoring)

    # What it takes

    @cached_property
    def fixed(self) -> Parts:
        """What is there in every phase."""
        overhead = "CUDA context" if self._kind == "cuda" else "libraries"
        amount = CONTEXT_GIB if self._kind == "cuda" else LIBRARIES_GIB
        return {overhead: int(amount * GIB), "weights": self._weights, "adapter": 4 * self._skeleton.adapter_parameters}

    def training(self, pairs: Sequence[tuple[int, int, int]], *, checkpointing: bool, later: bool = False) -> Parts:
        """One micro-batch of these pairs; a `later` one finds the gradients of those before it."""
        gradients = 4 * self._skeleton.adapter_parameters
        try:
            moving = self._skeleton.training_bytes(pairs, checkpointing=checkpointing, later=later)
        except (RuntimeError, NotImplementedError):  # a model whose way depends on its data, as with routed experts
            moving = self._estimate(pairs, checkpointing=checkpointing) + gradients
        head = self._head_bytes(sum(chosen + rejected for _, chosen, rejected in pairs))
        return self.fixed | {
            "gradients": gradients,
            "optimiser": 2 * gradients,
            "activations": max(moving - gradients - head, 0),
            "head chunk": head,
        }

    def sampling(self, rows: int) -> Parts:
        """Decoding of `rows` answers of the greatest length, after prompts of the greatest length."""
        prompt, new = self._cfg.sampling.max_prompt_tokens, self._longest_answer
        prompts = -(-rows // self._cfg.sampling.n)
        prefill = self._forward_bytes(prompts * prompt, prompts * prompt * prompt)
        logits = rows * self._text.vocab_size * 4 * 3
        return self.fixed | {
            "keys and values": int(self._cache_bytes(rows * (prompt + new)) * (1 + 1 / self._text.num_hidden_layers)),
            "activations": max(prefill - self._cache_bytes(rows * new), 0),  # done before the cache has grown
            "head chunk": logits,
        }

    def scoring(self, tokens: int) -> Parts:
        """One batch of `tokens` tokens in texts as long as a judge's prompt may be."""
        length = self._cfg.sampling.max_prompt_tokens + self._longest_answer + 512
        rows = max(tokens // length, 1)
        return self.fixed | {
            "keys and values": self._cache_bytes(rows * length),
            "activations": self._forward_bytes(max(tokens, length), rows * length * length),
            "head chunk": 2 * CHUNK_BYTES,
        }

    # How it is known

    @property
    def _longest_answer(self) -> int:
        return max(self._cfg.sampling.max_new_tokens, self._cfg.evaluation.max_new_tokens)

    @property
    def longest_batch(self) -> list[tuple[int, int, int]]:
        """The lengths of a step's pairs where each is as long as the settings allow."""
        new = self._cfg.sampling.max_new_tokens
        return [(self._cfg.train.max_length - new, new, new)] * self._cfg.train.batch_size

    @cached_property
    def _weights(self) -> int:
        total = 0
        for name, parameter in self._skeleton.parameters.items():
            packed = self._cfg.train.quantization == "nf4" and parameter.ndim == 2 and "layers." in name
            total += int(parameter.numel() * (NF4_BYTES if packed else parameter.element_size()))
        return total

    def _cache_bytes(self, tokens: int) -> int:
        heads = getattr(self._text, "num_key_value_heads", None) or self._text.num_attention_heads
        size = getattr(self._text, "head_dim", None) or self._text.hidden_size // self._text.num_attention_heads
        return tokens * 2 * heads * size * self._text.num_hidden_layers * self._number_bytes

    def _forward_bytes(self, tokens: int, scores: int) -> int:
        """A layer's tensors without gradients: states in and out, the feed-forward's three, the scores of attention."""
        layer = tokens * (6 * self._text.hidden_size + 3 * self._intermediate) * self._number_bytes
        kept = scores * self._text.num_attention_heads * (2 * self._number_bytes + 4) if self._kind == "cpu" else 0
        return layer + kept

    def _estimate(self, pairs: Sequence[tuple[int, int, int]], *, checkpointing: bool) -> int:
        """What a layer keeps for its backward pass, roughly: sixteen states a token and four of the feed-forward's."""
        tokens = sum(map(sum, pairs))
        layer = tokens * (16 * self._text.hidden_size + 4 * self._intermediate) * self._number_bytes
        layers = self._text.num_hidden_layers
        states = layers * tokens * self._text.hidden_size * self._number_bytes
        return states + layer if checkpointing else layers * layer

    @property
    def _intermediate(self) -> int:
        return getattr(self._text, "intermediate_size", None) or 4 * self._text.hidden_size

    def _head_bytes(self, tokens: int) -> int:
        rows = min(max(CHUNK_BYTES // (4 * self._text.vocab_size), 1), tokens)
        return rows * self._text.vocab_size * (4 + 2 * self._number_bytes)

    @property
    def _number_bytes(self) -> int:
        return 4 if self._cfg.model.dtype == "float32" else 2

    # What is refused

    def _default_limit(self) -> float:
        if self._kind == "cuda":
            return self._cfg.memory.cap_gb
        return self._cfg.memory.ram_gb or psutil.virtual_memory().total / GIB

    def _holds(self, total: int) -> bool:
        return total <= self.limit_gb * GIB

    def _largest(self, phase: str, wanted: int | None, most: int, least: int, cost: Callable[[int], Parts]) -> int:
        for size in [wanted] if wanted else [n for n in (most, *_halves(most)) if n > least] + [least]:
            if self._holds(sum(cost(size).values())):
                return size
        raise self._refusal(phase, sum(cost(wanted or least).values()))

    def _refusal(self, phase: str, needed: int) -> ConfigError:
        shown = f"{self.limit_gb:.4g}"
        if not self._advises:
            return ConfigError(self.limit_key, shown, f"{phase} needs {_tenth_up(needed):g} GiB")
        choices = " or ".join([*self._remedies(), f"{self.limit_key}={self._enough():g}"])
        return ConfigError(self.limit_key, shown, f"{phase} needs {_tenth_up(needed):g} GiB; use {choices}")

    def _remedies(self) -> list[str]:
        """The nearest settings under which the whole run fits: each was tried."""
        memory, train, sampling = self._cfg.memory, self._cfg.train, self._cfg.sampling
        attempts: list[dict[str, Any]] = []
        if memory.sampling_rows:
            attempts += [{"memory.sampling_rows": n} for n in _halves(memory.sampling_rows) if n >= sampling.n]
        if memory.scoring_tokens:
            attempts += [{"memory.scoring_tokens": n} for n in _halves(memory.scoring_tokens)]
        if not LOSSES[train.loss].couples_pairs:
            attempts.append({"memory.micro_batch": 1, "memory.gradient_checkpointing": True})
        shortest = sampling.max_prompt_tokens + sampling.max_new_tokens
        lengths = sorted({max(train.max_length * part // 8, shortest) for part in range(1, 8)}, reverse=True)
        attempts += [{"train.max_length": length} for length in lengths if length < train.max_length]
        if self._kind == "cuda" and train.quantization == "none":
            attempts.append({"train.quantization": "nf4"})
        for attempt in attempts:
            changed = copy.deepcopy(self._cfg)
            for key, value in attempt.items():
                group, name = key.split(".")
                setattr(getattr(changed, group), name, value)
            try:
                Plan(self._config, changed, self._kind, self.limit_gb, like=self).check()
            except ConfigError:
                continue
            return [" ".join(f"{key}={str(value).lower()}" for key, value in attempt.items())]
        return []

    def _enough(self) -> float:
        """GiB, to the tenth above, under which the whole run fits as it is set."""
        memory, batch = self._cfg.memory, self.longest_batch
        size = len(batch) if LOSSES[self._cfg.train.loss].couples_pairs else memory.micro_batch or 1
        ways = [True, False] if memory.gradient_checkpointing is None else [memory.gradient_checkpointing]
        later = size < len(batch)
        training = min(sum(self.training(batch[:size], checkpointing=way, later=later).values()) for way in ways)
        sampling = sum(self.sampling(memory.sampling_rows or self._cfg.sampling.n).values())
        scoring = sum(self.scoring(memory.scoring_tokens or _LEAST_SCORED).values())
        return _tenth_up(max(training, sampling, scoring))


def _tenth_up(amount: int) -> float:
    return math.ceil(amount / GIB * 10 + 1e-9) / 10


def _halves(size: int) -> list[int]:
    return [size >> shift for shift in range(1, size.bit_length())]
