"""The memory plan: what a run will take, before anything loads, and how its work is cut so that it fits.

The plan never changes what is made: not the batch of a step, not the longest text, not the type of number.
"""

from __future__ import annotations

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

    Raises `ConfigError` for what does not fit, with the nearest setting that would.
    """

    def __init__(self, config: Any, cfg: RunConfig, device: str, limit_gb: float | None = None) -> None:
        self._cfg = cfg
        self._text = config.get_text_config()
        self._kind = "cuda" if device == "cuda" else "cpu"
        self._skeleton = Skeleton(
            config, cfg.model.dtype, fresh_adapter(cfg.train.lora), eager=self._kind == "cpu", speed=cfg.speed
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
        raise self._refusal("training", min(fits, key=lambda fit: fit.total).total, self._training_remedies())

    @cached_property
    def sampling_rows(self) -> int:
        """Answers decoded side by side."""
        wanted = self._cfg.memory.sampling_rows
        return self._largest("sampling", wanted, _SAMPLING_ROWS[self._kind], self._cfg.sampling.n, self.sampling)

    @cached_property
    def scoring_tokens(self) -> int:
        """Tokens in one scoring batch, padding included."""
        wanted = self._cfg.memory.scoring_tokens
        return self._largest("scoring", wanted, _SCORING_TOKENS[self._kind], 256, self.scoring)

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
        moving = self._skeleton.training_bytes(pairs, checkpointing=checkpointing, later=later)
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
        layer = tokens * (6 * self._text.hidden_size + 3 * self._text.intermediate_size) * self._number_bytes
        kept = scores * self._text.num_attention_heads * (2 * self._number_bytes + 4) if self._kind == "cpu" else 0
        return layer + kept

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
        size = wanted or max(most, least)
        while not self._holds(sum(cost(size).values())):
            if wanted or size // 2 < least:
                key = {"sampling": "memory.sampling_rows", "scoring": "memory.scoring_tokens"}[phase]
                smaller = next((n for n in _halves(size) if self._holds(sum(cost(n).values()))), None)
                remedies = [f"{key}={smaller}"] if smaller else []
                raise self._refusal(phase, sum(cost(size).values()), remedies)
            size //= 2
        return size

    def _training_remedies(self) -> list[str]:
        """The nearest settings under which training fits."""
        single = self.training(self.longest_batch[:1], checkpointing=True)
        if self._holds(sum(single.values())) and not LOSSES[self._cfg.train.loss].couples_pairs:
            return ["memory.micro_batch=1 memory.gradient_checkpointing=true"]
        new = self._cfg.sampling.max_new_tokens
        shorter = range(self._cfg.train.max_length - 128, new + 64, -128)
        for length in shorter:
            if self._holds(sum(self.training([(length - new, new, new)], checkpointing=True).values())):
                return [f"train.max_length={length}"]
        return ["train.quantization=nf4"] if self._kind == "cuda" and self._cfg.train.quantization == "none" else []

    def _refusal(self, phase: str, needed: int, remedies: Sequence[str]) -> ConfigError:
        enough = -(-needed * 10 // GIB) / 10
        choices = " or ".join([*remedies, f"{self.limit_key}={enough:g}"])
        return ConfigError(
            self.limit_key, f"{self.limit_gb:.4g}", f"{phase} needs {needed / GIB:.1f} GiB; use {choices}"
        )


def _halves(size: int) -> list[int]:
    return [size >> shift for shift in range(1, size.bit_length())]
