"""Every setting of a run is either identity, which moves artifact ids, or execution, which never does."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest

from selfreward.config import (
    DataConfig,
    DocumentsConfig,
    GateConfig,
    GenerationConfig,
    JudgeConfig,
    LaunchConfig,
    MemoryConfig,
    RunConfig,
    SeedFileConfig,
    SpeedConfig,
    TrackingConfig,
    TrainConfig,
    TuningConfig,
)
from selfreward.judges import rubric
from selfreward.stages.candidates import EngineIdentity
from selfreward.stages.judgements import judgements_identity
from selfreward.store import Identity
from tests.settings import override, override_all
from tests.unit.dry_runs import (
    EVALUATION,
    HELD_OUT,
    POLICY,
    SCORES,
    TRAINED,
    artifacts,
    learn_from_people,
    moved,
    read_documents,
    write_prompts,
)

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
    "generation.kind": "evolve",
    "train.reference_logprobs": "recorded",
    "tuning.verdicts": "both",
    "documents.styles": "easy",
    "evaluation.judge": "independent",
    "gate.contamination": "ignore",
    "engine.tokenizer": str(Path(__file__).parent),
    **{f"{file}.format": "columns" for file in FILES},
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
    *(f"train.{name}" for name in _fields(TrainConfig, but={"reference", "max_length", "lora"})),
    *(f"tuning.{name}" for name in _fields(TuningConfig, but={"demonstrations", "ratings"})),
    *(f"{file}.{name}" for file in FILES for name in _fields(SeedFileConfig, but={"path"})),
}
EXECUTION = {
    "name",
    "output_dir",
    "artifacts_dir",
    "model.revision",
    "train.max_length",
    "generation.rounds",
    "prompts.name",
    "prompts.revision",
    "prompts.split",
    "prompts.subset",
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
    "train.reference",
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
    override(cfg, key, SPECIAL.get(key, _other(attrgetter(key)(cfg))))


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
        learn_from_people(cfg)
        for file in cfg.seed_files.values():
            file.format = "groups"  # which reads by all settings
    if key.startswith("documents"):
        read_documents(cfg)
    if key.startswith("generation."):
        cfg.generation.kind = "evolve" if key == "generation.operations" else "self_instruct"
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
    assert moved(before, artifacts(cfg)) == [set(), {"embeddings"}]


def test_to_measure_how_far_prompts_are_apart_makes_no_other_policy(cfg: RunConfig) -> None:
    before = artifacts(cfg)
    cfg.gate.embedding_model = cfg.model.name
    assert moved(before, artifacts(cfg)) == [set(), set()]


def test_a_judge_that_asks_no_model_has_no_mode(cfg: RunConfig) -> None:
    cfg.judge.kind = "length"
    before = artifacts(cfg)
    cfg.judge.mode, cfg.judge.samples = "sampled", 9
    assert artifacts(cfg) == before
    assert not cfg.judge.draws


@pytest.mark.parametrize(
    ("given", "key"),
    [
        ({"generation.kind": "evolve"}, "generation.examples"),
        ({"generation.kind": "self_instruct"}, "generation.operations"),
        ({"prompts.kind": "constraints"}, "gate.near_duplicates"),
        ({"prompts.kind": "constraints"}, "gate.resemblance"),
        ({"gate.contamination": "ignore"}, "gate.run_of_words"),
        ({"gate.contamination": "ignore", "gate.near_duplicates": "ignore"}, "gate.resemblance"),
        ({}, "tuning.demonstrations.score_column"),
        ({}, "tuning.ratings.responses_column"),
        ({"people.format": "hh"}, "people.highest_score"),
    ],
)
def test_what_nobody_looks_at_moves_nothing(cfg: RunConfig, given: dict[str, str], key: str) -> None:
    if not {"generation.kind", "prompts.kind"} & given.keys():
        learn_from_people(cfg)
    override_all(cfg, given)
    before = artifacts(cfg)
    _alter(cfg, key)
    assert artifacts(cfg) == before


def test_what_counts_as_a_near_duplicate_is_not_what_leaks_where_nothing_does(cfg: RunConfig) -> None:
    learn_from_people(cfg)
    cfg.gate.contamination = "ignore"
    before = artifacts(cfg)
    cfg.gate.resemblance = 0.5
    assert moved(before, artifacts(cfg)) == [set(), {"prompts", "agreement", *TRAINED}]


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
    assert identity.texts[:2] == (rubric.RUBRIC, rubric.ASK[mode])
    assert rubric.ASK[other] not in identity.texts


def test_a_model_is_its_bytes_and_not_its_path(cfg: RunConfig, tmp_path: Path) -> None:
    before = artifacts(cfg)
    cfg.model.name = str(shutil.copytree(cfg.model.name, tmp_path / "copy"))
    assert artifacts(cfg) == before
    (tmp_path / "copy" / "model.safetensors").write_bytes(b"Weights")
    assert moved(before, artifacts(cfg)) == [{*before[0]} - {"leaks"}, {*before[1]} - {"source", "prompts"}]


def test_a_prompt_file_is_its_bytes_and_not_its_path(cfg: RunConfig, tmp_path: Path) -> None:
    before = artifacts(cfg)
    cfg.prompts.path = str(shutil.copy(str(cfg.prompts.path), tmp_path / "copy.jsonl"))
    assert artifacts(cfg) == before
    write_prompts(tmp_path / "copy.jsonl", 13)
    assert artifacts(cfg) != before


def test_one_more_iteration_keeps_the_ids_of_all_before_it(cfg: RunConfig) -> None:
    short = artifacts(cfg)
    cfg.iteration = 3
    assert artifacts(cfg)[: len(short)] == short


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


def test_a_word_that_comes_to_the_same_makes_the_same_policy(cfg: RunConfig) -> None:
    before = artifacts(cfg)
    cfg.train.reference_logprobs = cfg.reference_logprobs(sampled=True)
    assert artifacts(cfg) == before


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_first_policy_is_the_same_whichever_reference_later_ones_have(cfg: RunConfig, dtype: str) -> None:
    cfg.iteration, cfg.model.dtype = 2, dtype
    before = artifacts(cfg)
    cfg.train.reference = "policy_0"
    nothing, first, second = moved(before, artifacts(cfg))
    assert (nothing, first) == (set(), set())
    assert "policy" in second
