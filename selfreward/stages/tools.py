"""What stages work with: prompts, the memory plan, the model, the engine. Each is made when it is first needed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfreward.cap import available_gb, enforce_cap
from selfreward.config import EngineConfig, MemoryConfig, RunConfig, SpeedConfig
from selfreward.engines import ENGINES, Host
from selfreward.model.adapters import SETTINGS_FILE, WEIGHTS_FILE, Adapter
from selfreward.pretrained import load
from selfreward.roles import Role, engine_name, engine_settings, settings_key, settings_of
from selfreward.sources.pool import Pool
from selfreward.store import Artifact

if TYPE_CHECKING:
    from selfreward.engines.base import Engine
    from selfreward.memory.plan import Plan
    from selfreward.model.models import Models


@dataclass(frozen=True)
class Tools:
    """What a stage runs with. A setting that changes a result reaches a stage as its configuration, not from here.

    `say` is told of the memory plan, when there is something to compute. `available_gb` is what each of several
    processes could take; None: what this one finds.
    """

    pool: Pool
    model_folder: Path
    run_folder: Path
    cfg: RunConfig
    say: Callable[[Any], None] = field(default=lambda _: None)
    available_gb: float | None = None

    @property
    def memory(self) -> MemoryConfig:
        return self.cfg.memory

    @property
    def speed(self) -> SpeedConfig:
        return self.cfg.speed

    @cached_property
    def plan(self) -> Plan:
        """The memory plan. What would not fit is refused here, before the model loads, and so is an outside engine that
        can't be reached, even where only training is left."""
        from transformers import AutoConfig  # this and the rest import torch, which a finished run does without

        from selfreward.memory.plan import Plan
        from selfreward.memory.table import plan_table
        from selfreward.model.device import pick_device

        device = pick_device(self.cfg.engine.device)
        config, there = load(AutoConfig, self.model_folder), self.available_gb or available_gb(device)
        plan = Plan(config, self.cfg, device, available_gb=there)
        plan.check()
        for role in ("judge", "evaluation"):
            if engine_settings(self.cfg, role).is_outside:
                self.engine_of(role)
        self.say(plan_table(plan))
        return plan

    @property
    def models(self) -> Models:
        """The base model and its adapters, in this process. Servers that the run has started are ended first."""
        self.close()
        return self._models

    @property
    def local_engine(self) -> Engine:
        """An engine on the model in this process."""
        return ENGINES["hf"](self._host, settings_key(None), EngineConfig())

    def engine_of(self, role: Role) -> Engine:
        """The engine that plays a role; roles may share one.

        A server that the run starts and the model in this process take turns on the device.
        """
        name, settings = engine_name(self.cfg, role), engine_settings(self.cfg, role)
        if settings.kind == "vllm":
            self._release_model()
        if name not in self._engines:
            self._engines[name] = ENGINES[settings.kind](self._host, settings_key(name), settings)
        if settings.kind != "server":
            self.close(but=self._engines[name])
        return self._engines[name]

    def close(self, but: Engine | None = None) -> None:
        """End the servers that the run has started, all `but` one."""
        for engine in self._engines.values():
            if engine is not but:
                engine.close()

    def _release_model(self) -> None:
        if models := vars(self).get("_models"):
            models.release()
        for name in [name for name in self._engines if settings_of(self.cfg, name).kind == "hf"]:
            del self._engines[name]  # it would hold on to the weights

    @cached_property
    def _models(self) -> Models:
        from selfreward.model.models import Models
        from selfreward.threads import set_threads

        plan = self.plan
        set_threads()
        if not plan.on_cpu:
            enforce_cap(self.cfg.memory.cap_gb)
        return Models(
            self.model_folder,
            self.cfg.model.dtype,
            self.cfg.engine.device,
            quantization=self.cfg.train.quantization,
            fused_adapters=self.cfg.speed.fused_adapter,
        )

    @cached_property
    def _engines(self) -> dict[str | None, Engine]:
        return {}

    @cached_property
    def _host(self) -> Host:
        return Host(self.cfg, self.model_folder, self.run_folder, lambda: self.models, lambda: self.plan, self.say)

    def adapter(self, policy: Artifact) -> Adapter | None:
        """A policy's adapter; None for one that is the base model.

        Its name tells of its weights: a server that knows those of a policy that was lost must load those made again.
        """
        if WEIGHTS_FILE not in policy.manifest.files:
            return None
        for name in (WEIGHTS_FILE, SETTINGS_FILE):
            policy.file(name)  # held against the manifest before it is used
        return Adapter(f"{policy.id}-{policy.manifest.content[:8]}", policy.path)


def cut(items: list, size: int) -> list[list]:
    """`items` in runs of `size`; the last may be shorter."""
    return [items[start : start + size] for start in range(0, len(items), size)]
