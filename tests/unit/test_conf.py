"""Every file of conf/ composes with the schema and passes validation."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hydra.errors import HydraException
from omegaconf import OmegaConf

from selfreward.compose import CONF, compose_run, folder_name
from selfreward.config import EngineConfig, RunConfig
from selfreward.errors import ConfigError
from selfreward.kinds import check_settings
from selfreward.run import prepare

CHOICES = sorted(path for path in CONF.rglob("*.yaml") if path.parent != CONF)
GROUPS = {
    "model",
    "prompts",
    "generation",
    "gate",
    "tuning",
    "sampling",
    "judge",
    "pairs",
    "train",
    "evaluation",
    "engine",
    "memory",
    "speed",
    "tracking",
    "launch",
    "experiment",
}


TUNED = ["tuning.demonstrations.path={file}", "tuning.ratings.path={file}"]
NEEDS = {
    "judge=verifier": ["prompts=constraints"],
    "judge=ensemble": ["prompts=constraints"],
    "generation=documents": ["documents.path={file}"],
    "experiment=wrap": ["documents.path={file}"],
    "tuning=oasst2": TUNED,
    "experiment=seed_tuning": [*TUNED, "people.path={file}"],
    "experiment=self_rewarding_small": [*TUNED, "people.path={file}"],
}
"""What a choice does not work without; files of other people are not here."""


@pytest.mark.parametrize("path", CHOICES, ids=lambda path: f"{path.parent.name}={path.stem}")
def test_every_choice_composes_and_validates(path: Path, tmp_path: Path) -> None:
    choice = f"{path.parent.name}={path.stem}"
    file = tmp_path / "file.jsonl"
    file.touch()
    needs = [need.format(file=file) for need in NEEDS.get(choice, [])]
    cfg = compose_run([choice, *needs, f"output_dir={tmp_path}/run"])
    check_settings(cfg)


@pytest.mark.parametrize("path", [path for path in CHOICES if path.parent.name == "experiment"], ids=lambda p: p.stem)
def test_every_experiment_has_the_prompts_that_it_asks_for(path: Path, tmp_path: Path) -> None:
    file = tmp_path / "file.jsonl"
    file.touch()
    choice = f"experiment={path.stem}"
    needs = [need.format(file=file) for need in NEEDS.get(choice, [])]
    pool = prepare(compose_run([choice, *needs, f"output_dir={tmp_path}/run", "tracking.wandb=disabled"]))
    assert pool.held_out


def test_there_is_a_folder_for_each_group() -> None:
    assert {path.parent.name for path in CHOICES} == GROUPS


def test_the_composed_defaults_are_those_of_the_schema() -> None:
    """The YAML states choices, not defaults: a default stands in one place."""
    composed, schema = compose_run([]), RunConfig()
    for group in (
        "generation",
        "gate",
        "tuning",
        "sampling",
        "judge",
        "pairs",
        "train",
        "evaluation",
        "memory",
        "speed",
        "tracking",
        "engine",
        "launch",
    ):
        assert getattr(composed, group) == getattr(schema, group)


def test_an_experiment_may_be_overridden_on_the_command_line() -> None:
    assert compose_run(["experiment=quick"]).sampling.n == 2
    assert compose_run(["experiment=quick", "sampling.n=3"]).sampling.n == 3


def test_an_engine_is_added_under_a_name_and_set_as_the_runs_own_is() -> None:
    added = compose_run(["+engine@engines.outside=hf", "engines.outside.merge_adapter=true", "judge.engine=outside"])
    assert added.engines == {"outside": EngineConfig(kind="hf", merge_adapter=True)}
    assert (added.judge.engine, added.evaluation.engine) == ("outside", None)
    assert added.engine == EngineConfig()


@pytest.mark.parametrize("value", ["a/b.jsonl", "x" * 300, "\u8a9e" * 100])
def test_the_name_of_a_points_folder_is_one_that_file_systems_take(tmp_path: Path, value: str) -> None:
    name = folder_name(f"prompts.path={value}")
    (tmp_path / name).mkdir()
    assert (name == "prompts.path=a_b.jsonl") == (value == "a/b.jsonl")
    assert name != folder_name(f"prompts.path={value}y")


def test_an_unknown_key_is_refused() -> None:
    with pytest.raises(HydraException, match="betta"):
        compose_run(["train.betta=0.1"])


def test_where_nothing_is_asked_no_source_has_too_few_prompts(tmp_path: Path) -> None:
    (tmp_path / "two.jsonl").write_text('{"prompt": "a"}\n{"prompt": "b"}\n')
    given = ["prompts=file", f"prompts.path={tmp_path}/two.jsonl", "prompts.held_out=1", f"output_dir={tmp_path}/run"]
    with pytest.raises(ConfigError, match=r"^prompts\.per_iteration=16: there are 1 prompts"):
        prepare(compose_run([*given, "iteration=1", "tracking.wandb=disabled"]))
    assert len(prepare(compose_run([*given, "iteration=0", "tracking.wandb=disabled"])).train) == 1


def test_a_point_of_a_sweep_is_not_named_after_what_changes_nothing_that_it_makes() -> None:
    in_no_name = OmegaConf.load(CONF / "config.yaml").hydra.job.config.override_dirname.exclude_keys
    settings = RunConfig()
    for group in ("memory", "speed", "launch", "tracking"):
        fields = dataclasses.fields(getattr(settings, group))
        assert {group, *(f"{group}.{field.name}" for field in fields)} <= set(in_no_name)
