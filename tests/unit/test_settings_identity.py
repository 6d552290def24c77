"""Every setting of a run is either identity, which moves artifact ids, or execution, which never does."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from selfreward.config import MemoryConfig, RunConfig, SpeedConfig, TrackingConfig
from selfreward.loop import loop
from selfreward.model_files import identify, locate
from selfreward.sources import SOURCES
from selfreward.stages.tools import Tools
from selfreward.store import Artifact, Cost, Identity, Manifest, Stage, Store
from selfreward.store.identity import artifact_id


class DryStore(Store[Tools]):
    """A store that works out identities alone: no stage runs."""

    def run(
        self,
        stage: Stage[Any, Tools],
        config: Any,
        parents: Mapping[str, Artifact] | None = None,
        seed: int | None = None,
    ) -> Artifact:
        references = {name: parent.reference for name, parent in (parents or {}).items()}
        identifier = artifact_id(stage.name, stage.version, config, references, seed)
        return Artifact(Path(), Manifest(stage.name, stage.version, identifier, None, references, seed, {}, {}, Cost()))


def artifacts(cfg: RunConfig) -> list[dict[str, str]]:
    """What each iteration of a run makes: `<stage>/<id>` by the artifact's name."""
    pool = SOURCES[cfg.prompts.kind](cfg.prompts)
    folder = locate(cfg.model.name, cfg.model.revision)
    store = DryStore(Path(), Tools(pool, folder, cfg))
    iterations = loop(cfg, identify(folder, cfg.model.dtype, cfg.train.quantization), store)
    return [{name: artifact.reference for name, artifact in iteration.items()} for iteration in iterations]


def moved(before: list[dict[str, str]], after: list[dict[str, str]]) -> list[set[str]]:
    """The names of the artifacts of each iteration that are others than they were, or are no longer made."""
    return [{name for name in old if old[name] != new.get(name)} for old, new in zip(before, after, strict=True)]


@pytest.fixture
def cfg(tmp_path: Path) -> RunConfig:
    """A run of one iteration, on prompts of its own and a model of a few bytes: nothing is loaded."""
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").write_bytes(b"weights")
    cfg = RunConfig(iteration=1, output_dir=str(tmp_path / "outputs"))
    cfg.model.name = str(model)
    cfg.prompts.kind = "file"
    cfg.prompts.path = str(tmp_path / "prompts.jsonl")
    cfg.prompts.category_column, cfg.prompts.held_out_column = "category", "split"
    cfg.prompts.per_iteration, cfg.prompts.held_out = 3, 2
    cfg.artifacts_dir = str(tmp_path / "artifacts")
    _write_prompts(Path(cfg.prompts.path), 12)
    return cfg


def _write_prompts(path: Path, count: int) -> None:
    parts = ["held_out" if i % 2 else "train" for i in range(count)]
    rows = [
        {"prompt": f"Say {i}.", "question": f"Why {i}?", "category": "a", "topic": "b", "split": part, "part": part}
        for i, part in enumerate(parts)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


# Each setting on its own

SPECIAL = {  # where any other value will not do
    "judge.kind": "length",
    "prompts.kind": "seed_pool",
    "prompts.prompt_column": "question",
    "prompts.category_column": "topic",
    "prompts.held_out_column": "part",
    "train.reference_logprobs": "recorded",
}
READ_INTO_IDENTITY = {  # what changes results although its group is one of execution
    "seed",
    "model.dtype",
    "engine.kind",
    "engine.merge_adapter",
    "engine.tokenizer",
    "engine.seeded",
    "prompts.kind",
    "prompts.prompt_column",
    "prompts.category_column",
    "prompts.held_out_column",
    "prompts.per_iteration",
    "prompts.held_out",
}
EXECUTION = {
    "name",
    "output_dir",
    "artifacts_dir",
    "model.revision",
    "prompts.name",
    "prompts.revision",
    "prompts.split",
    *(f"engine.{name}" for name in ("device", "base_url", "model", "key_variable", "python", "start_seconds")),
    *(f"engine.{name}" for name in ("concurrency", "timeout_seconds", "retries")),
    *(f"memory.{field.name}" for field in dataclasses.fields(MemoryConfig)),
    *(f"speed.{field.name}" for field in dataclasses.fields(SpeedConfig)),
    *(f"tracking.{field.name}" for field in dataclasses.fields(TrackingConfig)),
}
TESTED_ALONE = {"iteration", "model.name", "prompts.path"}


def _settings(group: Any, prefix: str = "") -> Iterator[tuple[str, bool]]:
    """The key of each setting, and whether its group is one of identity."""
    for field in dataclasses.fields(group):
        value = getattr(group, field.name)
        if dataclasses.is_dataclass(value):
            yield from _settings(value, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, isinstance(group, Identity)


IDENTITY = READ_INTO_IDENTITY | {key for key, is_identity in _settings(RunConfig()) if is_identity}


def _alter(cfg: RunConfig, key: str) -> None:
    *groups, name = key.split(".")
    settings: Any = cfg
    for group in groups:
        settings = getattr(settings, group)
    setattr(settings, name, SPECIAL.get(key, _other(getattr(settings, name))))


def _other(value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    if value is None:
        return "another"
    return value + ("x" if isinstance(value, str) else 1)


def test_every_setting_is_on_exactly_one_side() -> None:
    keys = [key for key, _ in _settings(RunConfig())]
    assert sorted([*IDENTITY, *EXECUTION, *TESTED_ALONE]) == sorted(keys)


FIRST_MOVED = {  # the artifact of iteration 1 that a group's settings are about
    "seed": "prompts",
    "prompts": "prompts",
    "model": "candidates",
    "engine": "candidates",
    "sampling": "candidates",
    "judge": "judgements",
    "pairs": "pairs",
    "train": "policy",
    "evaluation": "evaluation",
}


@pytest.mark.parametrize("key", sorted(IDENTITY))
def test_an_identity_setting_moves_the_id_of_what_it_changes(cfg: RunConfig, key: str) -> None:
    before = artifacts(cfg)
    _alter(cfg, key)
    assert FIRST_MOVED[key.split(".")[0]] in moved(before, artifacts(cfg))[1]


@pytest.mark.parametrize("key", sorted(EXECUTION))
def test_an_execution_setting_moves_no_artifact_id(cfg: RunConfig, key: str) -> None:
    before = artifacts(cfg)
    _alter(cfg, key)
    assert artifacts(cfg) == before


def test_what_an_outside_server_calls_its_model_says_which_it_is(cfg: RunConfig) -> None:
    cfg.engine.tokenizer, cfg.engine.model = "theirs", "one"
    before = artifacts(cfg)
    cfg.engine.model = "two"
    assert moved(before, artifacts(cfg)) == [HELD_OUT, TRAINED]


def test_a_model_is_its_bytes_and_not_its_path(cfg: RunConfig, tmp_path: Path) -> None:
    before = artifacts(cfg)
    cfg.model.name = str(shutil.copytree(cfg.model.name, tmp_path / "copy"))
    assert artifacts(cfg) == before
    (tmp_path / "copy" / "model.safetensors").write_bytes(b"Weights")
    assert moved(before, artifacts(cfg)) == [{*before[0]}, {*before[1]} - {"prompts"}]


def test_a_prompt_file_is_its_bytes_and_not_its_path(cfg: RunConfig, tmp_path: Path) -> None:
    before = artifacts(cfg)
    cfg.prompts.path = str(shutil.copy(str(cfg.prompts.path), tmp_path / "copy.jsonl"))
    assert artifacts(cfg) == before
    _write_prompts(tmp_path / "copy.jsonl", 13)
    assert artifacts(cfg) != before


def test_one_more_iteration_keeps_the_ids_of_all_before_it(cfg: RunConfig) -> None:
    short = artifacts(cfg)
    cfg.iteration = 3
    assert artifacts(cfg)[: len(short)] == short


ANSWERS, SCORES, EVALUATION = "held_out_candidates", "held_out_judgements", "evaluation"
HELD_OUT = {ANSWERS, SCORES, EVALUATION}
TRAINED = {"candidates", "judgements", "pairs", "references", "policy", *HELD_OUT}


@pytest.mark.parametrize(
    ("key", "policy_0", "policy_1"),
    [
        ("train.beta", set(), {"policy", *HELD_OUT}),
        ("train.lora.r", set(), {"policy", *HELD_OUT}),
        ("train.reference_logprobs", set(), {"references", "policy", *HELD_OUT}),
        ("pairs.margin", set(), {"pairs", "references", "policy", *HELD_OUT}),
        ("sampling.n", set(), TRAINED),
        ("prompts.per_iteration", set(), {"prompts", *TRAINED}),
        ("judge.mode", {SCORES, EVALUATION}, {"judgements", "pairs", "references", "policy", *HELD_OUT}),
        ("sampling.max_prompt_tokens", HELD_OUT, TRAINED),
        ("engine.kind", HELD_OUT, TRAINED),
        ("evaluation.temperature", HELD_OUT, HELD_OUT),
        ("evaluation.confidence", {EVALUATION}, {EVALUATION}),
    ],
)
def test_points_of_a_sweep_share_all_that_they_do_not_change(
    cfg: RunConfig, key: str, policy_0: set[str], policy_1: set[str]
) -> None:
    before = artifacts(cfg)
    _alter(cfg, key)
    assert moved(before, artifacts(cfg)) == [policy_0, policy_1]
