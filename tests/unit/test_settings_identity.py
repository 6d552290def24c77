"""Every setting of a run is either identity, which moves artifact ids, or execution, which never does."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from selfreward.config import (
    DataConfig,
    DocumentsConfig,
    EngineConfig,
    GateConfig,
    GenerationConfig,
    JudgeConfig,
    LaunchConfig,
    MemoryConfig,
    RunConfig,
    SeedFileConfig,
    SpeedConfig,
    TrackingConfig,
    TuningConfig,
)
from selfreward.judges import rubric
from selfreward.loop import Iteration, loop
from selfreward.model_files import identify, locate
from selfreward.sources import SOURCES
from selfreward.stages.candidates import EngineIdentity
from selfreward.stages.judgements import judgements_identity
from selfreward.stages.tools import Tools
from selfreward.store import Artifact, Cost, Identity, Manifest, Stage, Store
from selfreward.store.identity import artifact_id
from selfreward.tracking.metrics import artifact_names


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
        enough = {"prompts": self.tools.cfg.prompts.per_iteration}
        manifest = Manifest(stage.name, stage.version, identifier, None, references, seed, {}, enough, Cost())
        return Artifact(Path(), manifest)


def iterations(cfg: RunConfig) -> list[Iteration]:
    """What each iteration of a run would make."""
    pool = SOURCES[cfg.prompts.kind](cfg.prompts, cfg.data)
    folder = locate(cfg.model.name, cfg.model.revision)
    store = DryStore(Path(), Tools(pool, folder, cfg))
    return list(loop(cfg, identify(folder, cfg.model.dtype, cfg.train.quantization), store))


def artifacts(cfg: RunConfig) -> list[dict[str, str]]:
    """The same, as `<stage>/<id>` by the artifact's name."""
    return [artifact_names(iteration) for iteration in iterations(cfg)]


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
    cfg.engines = {"another": EngineConfig(merge_adapter=True), "outside": EngineConfig("server", tokenizer="grader")}
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

FILES = ("tuning.demonstrations", "tuning.ratings", "people")


def _fields(group: type[Any], but: set[str]) -> set[str]:
    return {field.name for field in dataclasses.fields(group)} - but


SPECIAL = {  # where any other value will not do
    "judge.kind": "length",
    "prompts.kind": "seed_pool",
    "prompts.prompt_column": "question",
    "prompts.category_column": "topic",
    "prompts.held_out_column": "part",
    "prompts.answer_column": "topic",
    "prompts.unseen_kinds": "heading",
    "judge.verifier_weight": 0.25,
    "train.reference_logprobs": "recorded",
    "generation.kind": "evolve",
    "documents.styles": "easy",
    "evaluation.judge": "independent",
}
READ_INTO_IDENTITY = {  # what changes results although its group is one of execution
    "seed",
    "model.dtype",
    "engine.kind",
    "engine.merge_adapter",
    "engine.parity_limit",
    "engine.seeded",
    "engine.tokenizer",
    "prompts.kind",
    "prompts.prompt_column",
    "prompts.category_column",
    "prompts.held_out_column",
    "prompts.answer_column",
    "prompts.most_constraints",
    "prompts.unseen_kinds",
    "prompts.per_iteration",
    "prompts.held_out",
    *(f"gate.{name}" for name in _fields(GateConfig, but={"embedding_model"})),
    *(f"data.{field.name}" for field in dataclasses.fields(DataConfig)),
    *(f"documents.{name}" for name in _fields(DocumentsConfig, but={"path"})),
    *(f"generation.{name}" for name in _fields(GenerationConfig, but={"rounds", "writer"})),
    *(f"tuning.{name}" for name in _fields(TuningConfig, but={"demonstrations", "ratings"})),
    *(f"{file}.{name}" for file in FILES for name in _fields(SeedFileConfig, but={"path"})),
}
EXECUTION = {
    "name",
    "output_dir",
    "artifacts_dir",
    "model.revision",
    "generation.rounds",
    "prompts.name",
    "prompts.revision",
    "prompts.split",
    *(f"engine.{name}" for name in ("device", "base_url", "model", "key_variable", "python", "start_seconds")),
    *(f"engine.{name}" for name in ("concurrency", "timeout_seconds", "retries")),
    *(f"memory.{field.name}" for field in dataclasses.fields(MemoryConfig)),
    *(f"speed.{field.name}" for field in dataclasses.fields(SpeedConfig)),
    *(f"launch.{field.name}" for field in dataclasses.fields(LaunchConfig)),
    *(f"tracking.{field.name}" for field in dataclasses.fields(TrackingConfig)),
}
TESTED_ALONE = {
    "iteration",
    "model.name",
    "prompts.path",
    "prompts.tasks",
    "prompts.level",
    "engines",
    "generation.writer",
    "gate.embedding_model",
    "documents.path",
    *(f"{file}.path" for file in FILES),
}
OF_CONSTRAINTS = {"prompts.most_constraints", "prompts.unseen_kinds"}
OF_SAMPLED_JUDGEMENTS = {"judge.samples", "judge.temperature", "judge.top_p", "judge.max_new_tokens"}


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


def _learn_from_people(cfg: RunConfig) -> None:
    file = Path(cfg.output_dir).parent / "people.jsonl"
    file.write_text("{}")
    cfg.tuning.demonstrations.path = cfg.tuning.ratings.path = cfg.people.path = str(file)


def _read_documents(cfg: RunConfig) -> None:
    folder = Path(cfg.output_dir).parent / "documents"
    folder.mkdir()
    (folder / "one.txt").write_text("A text.")
    cfg.documents.path = str(folder)


def _other(value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    if value is None:
        return "another"
    return value + ("x" if isinstance(value, str) else 1)


def test_every_setting_is_on_exactly_one_side() -> None:
    keys = [key for key, _ in _settings(RunConfig())]
    assert sorted([*IDENTITY, *EXECUTION, *TESTED_ALONE]) == sorted(keys)


FIRST_MOVED = {  # the artifact of iteration 1 that a setting, or a group's settings, are about
    "seed": "prompts",
    "prompts": "prompts",
    "model": "candidates",
    "engine": "candidates",
    "engine.parity_limit": "parity",
    "sampling": "candidates",
    "judge": "judgements",
    "pairs": "pairs",
    "train": "policy",
    "evaluation": "evaluation",
    "generation": "source",
    "documents": "policy",
    "gate": "prompts",
    "data": "policy",
    "tuning": "policy",
    "people": "agreement",
}


@pytest.mark.parametrize("key", sorted(IDENTITY))
def test_an_identity_setting_moves_the_id_of_what_it_changes(cfg: RunConfig, key: str) -> None:
    if key in OF_SAMPLED_JUDGEMENTS:
        cfg.judge.mode = "sampled"
    if key in OF_CONSTRAINTS:
        cfg.prompts.kind = "constraints"
    if key == "judge.verifier_weight":
        cfg.judge.kind = "ensemble"
    if key.startswith(("data", "tuning", "people")) or key == "evaluation.judge":
        _learn_from_people(cfg)
    if key.startswith("documents"):
        _read_documents(cfg)
    if key.startswith("generation."):
        cfg.generation.kind = "self_instruct"
    before = artifacts(cfg)
    _alter(cfg, key)
    about = FIRST_MOVED.get(key) or FIRST_MOVED[key.split(".")[0]]
    assert about in moved(before, artifacts(cfg))[1]


def test_a_model_that_measures_how_far_prompts_are_apart_is_its_files_and_not_its_folder(
    cfg: RunConfig, tmp_path: Path
) -> None:
    cfg.gate.embedding_model = cfg.model.name
    before = artifacts(cfg)
    cfg.gate.embedding_model = str(shutil.copytree(cfg.model.name, tmp_path / "copy"))
    assert artifacts(cfg) == before
    (tmp_path / "copy" / "model.safetensors").write_bytes(b"other weights")
    assert "prompts" in moved(before, artifacts(cfg))[1]


@pytest.mark.parametrize("key", sorted(EXECUTION))
def test_an_execution_setting_moves_no_artifact_id(cfg: RunConfig, key: str) -> None:
    before = artifacts(cfg)
    _alter(cfg, key)
    assert artifacts(cfg) == before


@pytest.mark.parametrize("key", sorted(OF_SAMPLED_JUDGEMENTS))
def test_what_only_sampled_judgements_take_moves_none_that_are_read_in_one_prefill(cfg: RunConfig, key: str) -> None:
    before = artifacts(cfg)
    _alter(cfg, key)
    assert artifacts(cfg) == before


@pytest.mark.parametrize(("mode", "other"), [("expected", "sampled"), ("sampled", "expected")])
def test_judgements_depend_on_the_words_of_their_own_mode_alone(mode: str, other: str) -> None:
    identity = judgements_identity(JudgeConfig(mode=mode), EngineIdentity("hf", merge_adapter=False))
    assert identity.texts == (rubric.RUBRIC, rubric.ASK[mode])
    assert rubric.ASK[other] not in identity.texts


def test_what_an_outside_server_calls_its_model_says_which_it_is(cfg: RunConfig) -> None:
    cfg.judge.engine = "outside"
    cfg.engines["outside"].model = "one"
    before = artifacts(cfg)
    cfg.engines["outside"].model = "two"
    assert moved(before, artifacts(cfg)) == [set(), {"judgements", "pairs", "references", *POLICY}]


def test_a_model_is_its_bytes_and_not_its_path(cfg: RunConfig, tmp_path: Path) -> None:
    before = artifacts(cfg)
    cfg.model.name = str(shutil.copytree(cfg.model.name, tmp_path / "copy"))
    assert artifacts(cfg) == before
    (tmp_path / "copy" / "model.safetensors").write_bytes(b"Weights")
    assert moved(before, artifacts(cfg)) == [{*before[0]}, {*before[1]} - {"source", "prompts"}]


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
POLICY = {"policy", "parity", *HELD_OUT}
TRAINED = {"candidates", "judgements", "pairs", "references", *POLICY}


@pytest.mark.parametrize(
    ("key", "policy_0", "policy_1"),
    [
        ("train.beta", set(), POLICY),
        ("train.lora.r", set(), POLICY),
        ("train.reference_logprobs", set(), {"references", *POLICY}),
        ("pairs.margin", set(), {"pairs", "references", *POLICY}),
        ("sampling.n", set(), TRAINED),
        ("prompts.per_iteration", set(), {"source", "prompts", *TRAINED}),
        ("gate.personal", set(), {"prompts", *TRAINED}),
        ("judge.mode", {SCORES, EVALUATION}, {"judgements", "pairs", "references", *POLICY}),
        ("sampling.max_prompt_tokens", HELD_OUT, TRAINED),
        ("judge.engine", set(), {"judgements", "pairs", "references", *POLICY}),
        ("engine.kind", {"parity", *HELD_OUT}, TRAINED),
        ("engine.parity_limit", {"parity"}, {"parity"}),
        ("evaluation.temperature", HELD_OUT, HELD_OUT),
        ("evaluation.engine", {SCORES, EVALUATION}, {SCORES, EVALUATION}),
        ("evaluation.confidence", {EVALUATION}, {EVALUATION}),
    ],
)
def test_points_of_a_sweep_share_all_that_they_do_not_change(
    cfg: RunConfig, key: str, policy_0: set[str], policy_1: set[str]
) -> None:
    before = artifacts(cfg)
    _alter(cfg, key)
    assert moved(before, artifacts(cfg)) == [policy_0, policy_1]


# Other engines by role


def test_an_engine_is_its_settings_and_not_its_name(cfg: RunConfig) -> None:
    cfg.judge.engine, cfg.evaluation.engine = "another", "outside"
    before = artifacts(cfg)
    cfg.engines = {"renamed": cfg.engines["another"], "also": cfg.engines["outside"]}
    cfg.judge.engine, cfg.evaluation.engine = "renamed", "also"
    assert artifacts(cfg) == before


def test_an_engine_that_plays_no_role_moves_nothing(cfg: RunConfig) -> None:
    before = artifacts(cfg)
    cfg.engines = {"unused": EngineConfig("server", tokenizer="other")}
    assert artifacts(cfg) == before


def test_an_outside_judge_is_no_policy_and_depends_on_none(cfg: RunConfig) -> None:
    cfg.iteration = 2
    cfg.judge.engine = cfg.evaluation.engine = "outside"
    for iteration in iterations(cfg):
        assert {*iteration["held_out_judgements"].manifest.parents} == {"candidates"}
        assert "judge" not in iteration["evaluation"].manifest.parents
        if "judgements" in iteration:
            assert {*iteration["judgements"].manifest.parents} == {"candidates"}


def test_another_engine_for_the_runs_own_model_judges_as_the_policy(cfg: RunConfig) -> None:
    cfg.iteration = 2
    cfg.judge.engine = cfg.evaluation.engine = "another"
    policy_0, first, second = iterations(cfg)
    assert second["judgements"].manifest.parents["policy"] == first["policy"].reference
    assert second["held_out_judgements"].manifest.parents["policy"] == policy_0["policy"].reference
    assert second["evaluation"].manifest.parents["judge"] == policy_0["policy"].reference


# What people wrote, and prompts that a policy writes


def test_a_word_that_comes_to_the_same_makes_the_same_policy(cfg: RunConfig) -> None:
    before = artifacts(cfg)
    cfg.train.reference_logprobs = cfg.reference_logprobs
    assert artifacts(cfg) == before


def test_what_people_wrote_is_its_bytes_and_not_its_path(cfg: RunConfig, tmp_path: Path) -> None:
    _learn_from_people(cfg)
    before = artifacts(cfg)
    cfg.tuning.ratings.path = str(shutil.copy(str(cfg.tuning.ratings.path), tmp_path / "copy.jsonl"))
    assert artifacts(cfg) == before
    (tmp_path / "copy.jsonl").write_text("{ }")
    assert "policy" in moved(before, artifacts(cfg))[0]


def test_without_what_people_wrote_no_setting_of_tuning_matters(cfg: RunConfig) -> None:
    before = artifacts(cfg)
    cfg.tuning.learning_rate, cfg.tuning.verdicts = 1.0, "sampled"
    assert artifacts(cfg) == before


def test_the_policy_of_the_iteration_writes_prompts_or_policy_0(cfg: RunConfig) -> None:
    cfg.iteration, cfg.generation.kind = 2, "self_instruct"
    before = artifacts(cfg)
    cfg.generation.writer = "policy_0"
    _, first, second = moved(before, artifacts(cfg))
    assert (first, "source" in second) == (set(), True)


def test_documents_are_their_names_and_bytes_and_not_their_folder(cfg: RunConfig, tmp_path: Path) -> None:
    _read_documents(cfg)
    before = artifacts(cfg)
    cfg.documents.path = str(shutil.copytree(str(cfg.documents.path), tmp_path / "copy"))
    assert artifacts(cfg) == before
    (tmp_path / "copy" / "one.txt").write_text("Another text.")
    assert {"chunks", "rephrasings", "policy", "perplexity"} <= moved(before, artifacts(cfg))[0]
