"""Checks of a run's settings, each alone and against the others, before anything loads: an error names the remedy."""

from __future__ import annotations

import dataclasses
import math
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from selfreward.config import EngineConfig, LaunchConfig, RunConfig, artifacts_dir, schema_key
from selfreward.errors import ConfigError

_VERIFYING = ("verifier", "ensemble")  # judges that need something to check
_CHECKED = ("constraints", "reasoning")  # prompts that carry it


def validate(cfg: RunConfig, kinds: Mapping[str, Mapping[str, object]]) -> None:
    """Check every value, alone and against the others. `kinds` gives for a key the dictionary it must be a key of.

    Raises `ConfigError` for the first one that can't be used.
    """
    for key, value, metadata in _settings(cfg, ""):
        _check_range(key, value, metadata)
        known = kinds.get(schema_key(key))
        if known is not None and value not in known:
            raise ConfigError(key, value, f"use one of {', '.join(known)}")
    _check_across(cfg)


def check_folders(cfg: RunConfig) -> None:
    """Make the run's folders. Raises `ConfigError` where one can't be written."""
    _check_writable("output_dir", Path(cfg.output_dir))
    _check_writable("artifacts_dir", artifacts_dir(cfg))


def _settings(group: Any, prefix: str) -> Iterator[tuple[str, Any, Mapping[str, Any]]]:
    for entry in dataclasses.fields(group):
        value = getattr(group, entry.name)
        if dataclasses.is_dataclass(value):
            yield from _settings(value, f"{prefix}{entry.name}.")
        elif isinstance(value, dict):
            for name, part in value.items():
                yield from _settings(part, f"{prefix}{entry.name}.{name}.")
        else:
            yield f"{prefix}{entry.name}", value, entry.metadata


def _check_range(key: str, value: Any, metadata: Mapping[str, Any]) -> None:
    if choices := metadata.get("choices"):
        if value not in choices:
            raise ConfigError(key, value, f"use one of {', '.join(choices)}")
        return
    if not isinstance(value, (int, float)) or isinstance(value, bool) or "least" not in metadata:
        return
    above, least, most = metadata["above"], metadata["least"], metadata["most"]
    inside = (
        math.isfinite(value)
        and (above is None or value > above)
        and (least is None or value >= least)
        and (most is None or value <= most)
    )
    if not inside:
        parts = [f"above {above:g}" if above is not None else "", f"of at least {least:g}" if least is not None else ""]
        parts.append(f"of at most {most:g}" if most is not None else "")
        raise ConfigError(key, value, f"use a number {' and '.join(part for part in parts if part)}")


def _check_across(cfg: RunConfig) -> None:
    if cfg.engine.merge_adapter and cfg.train.reference == "previous":
        raise ConfigError(
            "train.reference",
            "previous",
            "a model with its adapter merged is not exactly the previous policy; "
            "set train.reference=base or engine.merge_adapter=false",
        )
    if cfg.speed.share_prompt and not cfg.speed.completion_head:
        raise ConfigError("speed.completion_head", False, "packed pairs need it; set speed.share_prompt=false too")
    needed = cfg.sampling.max_prompt_tokens + cfg.sampling.max_new_tokens
    if cfg.train.max_length < needed:
        raise ConfigError(
            "train.max_length",
            cfg.train.max_length,
            f"candidates may have {needed} tokens and would be cut; set it to {needed} or more, "
            "or lower sampling.max_prompt_tokens or sampling.max_new_tokens",
        )
    if cfg.train.reference_logprobs == "recorded" and cfg.train.reference != "previous":
        remedy = "none were recorded under the base model; set train.reference=previous, or computed"
        raise ConfigError("train.reference_logprobs", "recorded", remedy)
    if cfg.memory.micro_batch and cfg.memory.micro_batch > cfg.train.batch_size:
        remedy = f"a step has train.batch_size={cfg.train.batch_size} pairs; use at most that"
        raise ConfigError("memory.micro_batch", cfg.memory.micro_batch, remedy)
    _check_launch(cfg.launch, cfg.engine.device)
    if cfg.launch.kind == "accelerate":
        _check_shared_engines({"engine": cfg.engine, **{f"engines.{name}": e for name, e in cfg.engines.items()}})
    if cfg.judge.kind in _VERIFYING and cfg.prompts.kind not in _CHECKED and cfg.prompts.answer_column is None:
        remedy = f"prompts={cfg.prompts.kind} carry nothing to check; use prompts={' or '.join(_CHECKED)}, or name "
        raise ConfigError("judge.kind", cfg.judge.kind, remedy + "the column of right answers: prompts.answer_column")
    if cfg.sampling.temperature == 0:
        raise ConfigError(
            "sampling.temperature", 0, "all candidates of a prompt would be the same; use a number above 0"
        )


def _check_launch(launch: LaunchConfig, device: str) -> None:
    if launch.kind == "accelerate" and device == "mps":
        raise ConfigError("launch.kind", "accelerate", "there is but one GPU for engine.device=mps; use launch=single")
    for key in ("processes", "config_file"):
        if launch.kind == "single" and getattr(launch, key) is not None:
            remedy = "launch.kind=single is one process; set launch=accelerate too"
            raise ConfigError(f"launch.{key}", getattr(launch, key), remedy)
    if launch.config_file and not Path(launch.config_file).is_file():
        raise ConfigError(
            "launch.config_file", launch.config_file, "there is no such file; `accelerate config` writes one"
        )


def _check_shared_engines(engines: Mapping[str, EngineConfig]) -> None:
    for key, engine in engines.items():
        if engine.kind == "vllm":
            remedy = "each process would start a server; start one yourself and set engine=server, or launch=single"
            raise ConfigError(f"{key}.kind", "vllm", remedy)


def _check_writable(key: str, folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return
    except OSError as error:
        reason = error.strerror or error
        raise ConfigError(key, folder, f"can't be written ({reason}); choose another folder") from error
