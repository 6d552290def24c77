"""Which engine does what: the run's own samples, and it judges and evaluates too where no further one is named."""

from __future__ import annotations

from typing import Literal

from selfreward.config import EngineConfig, RunConfig
from selfreward.errors import ConfigError

Role = Literal["sampling", "judge", "evaluation"]
"""To answer prompts, to judge candidates, to judge answers to held-out prompts."""


def engine_name(cfg: RunConfig, role: Role) -> str | None:
    """The key in `engines` of the engine that plays a role; None is the run's own."""
    return {"sampling": None, "judge": cfg.judge.engine, "evaluation": cfg.evaluation.engine}[role]


def engine_settings(cfg: RunConfig, role: Role) -> EngineConfig:
    """The settings of the engine that plays a role."""
    return settings_of(cfg, engine_name(cfg, role))


def settings_of(cfg: RunConfig, name: str | None) -> EngineConfig:
    """The settings of an engine by its key in `engines`; None is the run's own."""
    return cfg.engine if name is None else cfg.engines[name]


def settings_key(name: str | None) -> str:
    """The key under which a person sets them."""
    return "engine" if name is None else f"engines.{name}"


def all_engines(cfg: RunConfig) -> dict[str, EngineConfig]:
    """The settings of every engine by the key that a person sets them under."""
    return {settings_key(name): settings_of(cfg, name) for name in (None, *cfg.engines)}


def check_all_used(cfg: RunConfig) -> None:
    """Raise `ConfigError` for a further engine that plays no role: it would be forgotten without a word."""
    playing = {engine_name(cfg, role) for role in ("judge", "evaluation")}
    for name in cfg.engines:
        if name not in playing:
            remedy = f"it plays no role; set judge.engine={name} or evaluation.engine={name}, or leave it out"
            raise ConfigError(f"engines.{name}", cfg.engines[name].kind, remedy)


def check_engines(cfg: RunConfig) -> None:
    """Raise `ConfigError` for a role that no engine plays, or an engine that can't play its own."""
    for role in ("judge", "evaluation"):
        name = engine_name(cfg, role)
        if name is not None and name not in cfg.engines:
            there = f"engines has {', '.join(cfg.engines) or 'none'}"
            raise ConfigError(f"{role}.engine", name, f"{there}; +engine@engines.{name}=<choice> adds it")
    if cfg.engine.is_outside:
        remedy = "policies answer prompts, on an engine that runs this run's model; put an outside one into engines"
        raise ConfigError("engine.tokenizer", cfg.engine.tokenizer, remedy)
    for name, engine in cfg.engines.items():
        if engine.parity_limit is not None and engine.is_outside:
            remedy = "an engine with a model of its own is not held against training; leave it out"
            raise ConfigError(f"engines.{name}.parity_limit", engine.parity_limit, remedy)
        if engine.kind == "hf" and engine.device not in ("auto", cfg.engine.device):
            remedy = f"the model is in memory once, on engine.device={cfg.engine.device}; leave it out"
            raise ConfigError(f"engines.{name}.device", engine.device, remedy)
