"""What stages work with: prompts, the memory plan, the model, the engine. Each is made when it is first needed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfreward.adapters import SETTINGS, WEIGHTS, Adapter
from selfreward.cap import enforce_cap
from selfreward.config import MemoryConfig, RunConfig, SpeedConfig
from selfreward.engines import ENGINES, Host
from selfreward.sources.pool import Pool
from selfreward.store import Artifact

if TYPE_CHECKING:
    from selfreward.engines.base import Engine
    from selfreward.memory.plan import Plan
    from selfreward.models import Models


@dataclass(frozen=True)
class Tools:
    """What a stage runs with. A setting that changes a result reaches a stage as its configuration, not from here.

    `say` is told of the memory plan, when there is something to compute.
    """

    pool: Pool
    model_folder: Path
    cfg: RunConfig
    say: Callable[[Any], None] = field(default=lambda _: None)

    @property
    def memory(self) -> MemoryConfig:
        return self.cfg.memory

    @property
    def speed(self) -> SpeedConfig:
        return self.cfg.speed

    @cached_property
    def plan(self) -> Plan:
        """The memory plan. What would not fit is refused here, before the model loads."""
        from transformers import AutoConfig  # this and the rest import torch, which a finished run does without

        from selfreward.memory.plan import Plan
        from selfreward.memory.table import plan_table
        from selfreward.models import pick_device

        plan = Plan(AutoConfig.from_pretrained(self.model_folder), self.cfg, pick_device(self.cfg.engine.device))
        plan.check()
        self.say(plan_table(plan))
        return plan

    @property
    def models(self) -> Models:
        """The base model and its adapters. A server that the run has started is ended first, for it holds the device.

        Where an engine starts one, that one has the device to itself: see `engine`.
        """
        self.close()
        return self._models

    @property
    def engine(self) -> Engine:
        """The engine that samples and scores. A server of the run's own gets the device to itself."""
        if self.cfg.engine.kind == "vllm" and (models := vars(self).get("_models")):
            models.release()
        return self._engine

    def close(self) -> None:
        """End the server that the run has started, if there is one."""
        if self.cfg.engine.kind == "vllm" and (engine := vars(self).get("_engine")):
            engine.close()

    @cached_property
    def _models(self) -> Models:
        from selfreward.models import Models
        from selfreward.threads import set_threads

        _ = self.plan
        set_threads()
        enforce_cap(self.cfg.memory.cap_gb)
        return Models(
            self.model_folder,
            self.cfg.model.dtype,
            self.cfg.engine.device,
            quantization=self.cfg.train.quantization,
            fused_adapters=self.cfg.speed.fused_adapter,
        )

    @cached_property
    def _engine(self) -> Engine:
        host = Host(self.cfg, self.model_folder, lambda: self.models, lambda: self.plan, self.say)
        return ENGINES[self.cfg.engine.kind](host, self.cfg.engine)

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
