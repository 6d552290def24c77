"""What stages work with: the pool of prompts, the model, the engine. Each is made when it is first needed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from selfreward.adapters import SETTINGS, WEIGHTS, Adapter
from selfreward.config import EngineConfig, MemoryConfig, ModelConfig
from selfreward.engines import ENGINES
from selfreward.memory import enforce_cap
from selfreward.sources.pool import Pool
from selfreward.store import Artifact

if TYPE_CHECKING:
    from selfreward.engines.base import Engine
    from selfreward.models import Models


@dataclass(frozen=True)
class Tools:
    """Only settings of execution are in here; what changes a result reaches a stage as its configuration."""

    pool: Pool
    model_folder: Path
    model: ModelConfig
    engine_settings: EngineConfig
    memory: MemoryConfig

    @cached_property
    def models(self) -> Models:
        """The base model and its adapters."""
        from selfreward.models import Models  # imports torch, which a finished run does without

        enforce_cap(self.memory.cap_gb)
        return Models(self.model_folder, self.model.dtype, self.engine_settings.device)

    @cached_property
    def engine(self) -> Engine:
        """The engine that samples and scores."""
        return ENGINES[self.engine_settings.kind](self.models, self.engine_settings, self.memory)

    def adapter(self, policy: Artifact) -> Adapter | None:
        """A policy's adapter; None for policy 0, which is the base model."""
        if WEIGHTS not in policy.manifest.files:
            return None
        for name in (WEIGHTS, SETTINGS):
            policy.file(name)  # held against the manifest before it is used
        return Adapter(policy.id, policy.path)


def cut(items: list, size: int) -> list[list]:
    """`items` in runs of `size`; the last may be shorter."""
    return [items[start : start + size] for start in range(0, len(items), size)]


def longer(tokens: int, other: int) -> float:
    """What a judge that looks at length alone would say: 1 where the first is longer, 0 where shorter, else a half."""
    return 0.5 if tokens == other else float(tokens > other)
