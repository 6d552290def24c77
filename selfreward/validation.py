"""Checks of a run's settings, each alone and against the others, before anything loads: an error names the remedy."""

from __future__ import annotations

import dataclasses
import math
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from selfreward.config import TEMPLATED, LaunchConfig, PromptsConfig, RunConfig, artifacts_dir, schema_key
from selfreward.errors import ConfigError, no_such_file
from selfreward.hygiene.language import languages
from selfreward.roles import all_engines

_VERIFYING = ("verifier", "ensemble")  # judges that need something to check
_READ_BY = {  # the kind of prompts that alone reads a setting of theirs
    "path": "file",
    **dict.fromkeys(("name", "subset", "revision", "split"), "dataset"),
    **dict.fromkeys(("most_constraints", "unseen_kinds"), "constraints"),
    **dict.fromkeys(("tasks", "level"), "reasoning"),
}


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


def check_shared_engines(cfg: RunConfig, processes: int | None) -> None:
    """Raise `ConfigError` for an engine that each of so many processes would start; None is an unknown number."""
    for key, engine in all_engines(cfg).items():
        if engine.kind == "vllm" and processes != 1:
            remedy = "each process would start a server; start one yourself and set engine=server, or launch=single"
            raise ConfigError(f"{key}.kind", "vllm", remedy)


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
    if "/" in cfg.name and cfg.output_dir == f"outputs/{cfg.name}":
        remedy = "its artifacts would lie apart from those of other runs; use a name without /, or set output_dir too"
        raise ConfigError("name", cfg.name, remedy)
    if cfg.engine.merge_adapter and cfg.train.reference == "previous":
        raise ConfigError(
            "train.reference",
            "previous",
            "a model with its adapter merged is not exactly the previous policy; "
            "set train.reference=policy_0 or engine.merge_adapter=false",
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
        remedy = "none were recorded under policy 0; set train.reference=previous, or computed"
        raise ConfigError("train.reference_logprobs", "recorded", remedy)
    if cfg.memory.micro_batch and cfg.memory.micro_batch > cfg.train.batch_size:
        remedy = f"a step has train.batch_size={cfg.train.batch_size} pairs; use at most that"
        raise ConfigError("memory.micro_batch", cfg.memory.micro_batch, remedy)
    _check_launch(cfg.launch, cfg.engine.device)
    if cfg.judge.kind in _VERIFYING and cfg.prompts.kind not in TEMPLATED and cfg.prompts.answer_column is None:
        remedy = f"prompts={cfg.prompts.kind} carry nothing to check; use prompts={' or '.join(TEMPLATED)}, or name "
        raise ConfigError("judge.kind", cfg.judge.kind, remedy + "the column of right answers: prompts.answer_column")
    if cfg.judge.engine is not None and not cfg.judge.asks_a_model:
        remedy = f"judge={cfg.judge.kind} asks no model; leave it out, or use judge=expected"
        raise ConfigError("judge.engine", cfg.judge.engine, remedy)
    _check_sources(cfg)
    _check_languages(cfg)
    _check_people(cfg)
    if cfg.sampling.temperature == 0:
        raise ConfigError(
            "sampling.temperature", 0, "all candidates of a prompt would be the same; use a number above 0"
        )


def _check_sources(cfg: RunConfig) -> None:
    usual = {entry.name: entry.default for entry in dataclasses.fields(PromptsConfig)}
    for name, needed in _READ_BY.items():
        given = getattr(cfg.prompts, name)
        if given != usual[name] and cfg.prompts.kind != needed:
            remedy = f"prompts={cfg.prompts.kind} reads none; set prompts={needed} too"
            raise ConfigError(f"prompts.{name}", given, remedy)
    kind = cfg.generation.kind
    if kind != "none" and cfg.prompts.kind in TEMPLATED:
        remedy = f"prompts={cfg.prompts.kind} draws its own without end; use generation=none, or other prompts"
        raise ConfigError("generation.kind", kind, remedy)
    if kind != "none" and cfg.judge.kind in _VERIFYING:
        remedy = "what a policy writes carries nothing to check; use judge=expected, or generation=none"
        raise ConfigError("judge.kind", cfg.judge.kind, remedy)
    if kind == "documents" and not cfg.documents.path:
        raise ConfigError("documents.path", None, "generation=documents asks about documents; name a folder or a file")
    if kind == "documents" and "question_answer" not in cfg.documents.styles:
        remedy = "generation=documents takes its questions from the style question_answer; add it"
        raise ConfigError("documents.styles", cfg.documents.styles, remedy)
    if cfg.documents.path and not Path(cfg.documents.path).exists():
        raise no_such_file("documents.path", Path(cfg.documents.path))


def _check_languages(cfg: RunConfig) -> None:
    used = {"gate.language": cfg.gate.language}
    if cfg.generation.kind != "none":
        used["generation.language"] = cfg.generation.language
    for key, code in used.items():
        if code is not None and code not in languages():
            raise ConfigError(key, code, "use the code of a language, such as en, de or zh, or null for any")


def _check_people(cfg: RunConfig) -> None:
    for key, file in cfg.seed_files.items():
        if file.path and not Path(file.path).is_file():
            raise no_such_file(f"{key}.path", Path(file.path))
        if file.highest_score <= file.lowest_score:
            remedy = f"scores begin at {key}.lowest_score={file.lowest_score:g}; use a greater number"
            raise ConfigError(f"{key}.highest_score", file.highest_score, remedy)
    if cfg.people.held_out:
        remedy = "all of people is there to measure by; leave it at 0"
        raise ConfigError("people.held_out", cfg.people.held_out, remedy)
    if cfg.rated and cfg.judge.kind in _VERIFYING:
        key = "people.path" if cfg.rated == "people" else "tuning.ratings.held_out"
        remedy = f"answers that people rated carry nothing to check; leave {key} out, or use judge=expected"
        raise ConfigError("judge.kind", cfg.judge.kind, remedy)
    if cfg.evaluation.judge != "independent":
        if cfg.tuning.ratings.held_out and cfg.people.path:
            remedy = "people.path is there to measure by; leave this at 0, or set evaluation.judge=independent"
            raise ConfigError("tuning.ratings.held_out", cfg.tuning.ratings.held_out, remedy)
        if cfg.tuning.ratings.held_out and not cfg.tuning.ratings.path:
            remedy = "there are no ratings to keep apart; name tuning.ratings.path, or leave this at 0"
            raise ConfigError("tuning.ratings.held_out", cfg.tuning.ratings.held_out, remedy)
        return
    if not cfg.tuning.ratings.path or not cfg.tuning.ratings.held_out:
        remedy = "it is tuned on ratings that are kept apart; name tuning.ratings.path and set tuning.ratings.held_out"
        raise ConfigError("evaluation.judge", "independent", remedy)
    if cfg.evaluation.engine:
        remedy = "the independent judge runs on the run's own; leave it out"
        raise ConfigError("evaluation.engine", cfg.evaluation.engine, remedy)
    if cfg.judge.mode == "sampled":
        remedy = (
            "the independent judge learns score tokens alone; use judge.mode=expected, or evaluation.judge=policy_0"
        )
        raise ConfigError("judge.mode", cfg.judge.mode, remedy)


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


def _check_writable(key: str, folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return
    except OSError as error:
        reason = error.strerror or error
        raise ConfigError(key, folder, f"can't be written ({reason}); choose another folder") from error
