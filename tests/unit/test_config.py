"""A setting that can't be used is found before anything loads, and said in one line: key, value, remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from selfreward.config import EngineConfig, RunConfig, artifacts_dir
from selfreward.errors import ConfigError
from selfreward.kinds import KINDS
from selfreward.validation import check_folders, validate
from tests.settings import assert_refused, override, override_all, sound


@pytest.fixture
def cfg(tmp_path: Path) -> RunConfig:
    return sound(tmp_path)


def test_the_defaults_are_all_right(cfg: RunConfig) -> None:
    validate(cfg, KINDS)


# Each setting on its own


@pytest.mark.parametrize(
    ("key", "value", "remedy"),
    [
        ("iteration", -1, "use a number of at least 0"),
        ("seed", -1, "use a number of at least 0 and of at most"),
        ("seed", 2**31, "use a number of at least 0 and of at most"),
        ("prompts.per_iteration", 0, "of at least 1"),
        ("prompts.held_out", 0, "of at least 1"),
        ("sampling.n", 1, "of at least 2"),
        ("sampling.temperature", -0.1, "of at least 0"),
        ("sampling.temperature", float("nan"), "of at least 0"),
        ("sampling.temperature", float("inf"), "of at least 0"),
        ("sampling.top_p", 0, "above 0 and of at most 1"),
        ("sampling.top_p", 1.01, "above 0 and of at most 1"),
        ("sampling.max_new_tokens", 0, "of at least 1"),
        ("sampling.max_prompt_tokens", 0, "of at least 1"),
        ("sampling.shard_size", 0, "of at least 1"),
        ("judge.samples", 0, "of at least 1"),
        ("judge.temperature", 0, "above 0"),
        ("judge.top_p", 0, "above 0 and of at most 1"),
        ("judge.max_new_tokens", 0, "of at least 1"),
        ("judge.shard_size", 0, "of at least 1"),
        ("pairs.margin", -1, "of at least 0"),
        ("train.beta", 0, "above 0"),
        ("train.learning_rate", 0.0, "above 0"),
        ("train.warmup_ratio", 0.95, "of at least 0 and of at most 0.9"),
        ("train.weight_decay", -0.1, "of at least 0"),
        ("train.max_grad_norm", 0, "above 0"),
        ("train.label_smoothing", 0.6, "of at least 0 and of at most 0.5"),
        ("train.epochs", 0, "of at least 1"),
        ("train.batch_size", 0, "of at least 1"),
        ("train.max_length", 1, "of at least 2"),
        ("train.lora.r", 0, "of at least 1"),
        ("train.lora.alpha", 0, "of at least 1"),
        ("train.lora.dropout", 1.0, "of at least 0 and of at most 0.9"),
        ("evaluation.temperature", -1, "of at least 0"),
        ("evaluation.top_p", 2, "above 0 and of at most 1"),
        ("evaluation.max_new_tokens", 0, "of at least 1"),
        ("evaluation.bootstrap_samples", 99, "of at least 100"),
        ("evaluation.confidence", 1.0, "above 0 and of at most 0.999"),
        ("memory.cap_gb", 0, "above 0"),
        ("memory.ram_gb", 0, "above 0"),
        ("memory.micro_batch", 0, "of at least 1"),
        ("memory.sampling_rows", 0, "of at least 1"),
        ("memory.scoring_tokens", 0, "of at least 1"),
        ("memory.checkpoint_seconds", -1, "of at least 0"),
        ("tracking.examples", 0, "of at least 1"),
        ("model.dtype", "int8", "use one of bfloat16, float16, float32"),
        ("judge.mode", "guess", "use one of expected, sampled"),
        ("train.schedule", "step", "use one of linear, cosine, constant_with_warmup"),
        ("train.reference", "next", "use one of previous, policy_0"),
        ("train.reference_logprobs", "guessed", "use one of auto, computed, recorded"),
        ("train.quantization", "int8", "use one of none, nf4"),
        ("engine.device", "tpu", "use one of auto, cpu, cuda, mps"),
        ("tracking.wandb", "maybe", "use one of auto, online, offline, disabled"),
        ("prompts.kind", "thin_air", "use one of seed_pool, file, dataset"),
        ("judge.kind", "coin", "use one of rubric, length"),
        ("pairs.kind", "all", "use one of best_worst"),
        ("engine.kind", "steam", "use one of hf"),
        ("engine.parity_limit", 0, "above 0"),
        ("train.loss", "sigmund", "use one of sigmoid, sigmoid_norm, hinge"),
    ],
)
def test_a_value_that_can_not_be_used_is_named_with_its_key_and_what_to_use(
    cfg: RunConfig, key: str, value: Any, remedy: str
) -> None:
    override(cfg, key, value)
    with pytest.raises(ConfigError) as caught:
        validate(cfg, KINDS)
    message = str(caught.value)
    assert message.startswith(f"{key}={value}: ")
    assert remedy in message
    assert len(message.splitlines()) == 1


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("sampling.top_p", 1),
        ("evaluation.temperature", 0),
        ("evaluation.top_p", 1.0),
        ("train.lora.dropout", 0.9),
        ("train.label_smoothing", 0.5),
        ("memory.scoring_tokens", 1),
        ("memory.checkpoint_seconds", 0),
        ("seed", 2**31 - 1),
        ("sampling.n", 2),
    ],
)
def test_the_ends_of_a_range_belong_to_it(cfg: RunConfig, key: str, value: Any) -> None:
    override(cfg, key, value)
    validate(cfg, KINDS)


@pytest.mark.parametrize(("value", "shown"), [(None, "null"), (True, "true"), (False, "false"), (1, "1"), (0, "0")])
def test_a_value_is_shown_as_one_writes_it_on_the_command_line(value: object, shown: str) -> None:
    assert str(ConfigError("key", value, "remedy")) == f"key={shown}: remedy"


# One setting against another

INDEPENDENT: dict[str, Any] = {
    "evaluation.judge": "independent",
    "tuning.ratings.path": __file__,
    "tuning.ratings.held_out": 5,
}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            {"engine.merge_adapter": True},
            "train.reference=previous: .*set train.reference=policy_0 or engine.merge_adapter=false",
        ),
        ({"sampling.max_new_tokens": 600}, "train.max_length=1024: .*may have 1112 tokens.*set it to 1112 or more"),
        ({"train.max_length": 607}, "train.max_length=607: .*set it to 608 or more, or lower sampling"),
        (
            {"tuning.ratings.held_out": 5},
            "tuning.ratings.held_out=5: there are no ratings to keep apart; name tuning.ratings.path, or leave",
        ),
        (
            {"tuning.ratings.path": __file__, "tuning.ratings.held_out": 5, "people.path": __file__},
            "tuning.ratings.held_out=5: people.path is there to measure by; leave this at 0, or set evaluation.judge",
        ),
        (
            {"tuning.ratings.path": __file__, "tuning.ratings.held_out": 5, "judge.kind": "verifier"}
            | {"prompts.kind": "constraints"},
            "judge.kind=verifier: answers that people rated .*; leave tuning.ratings.held_out out, or use",
        ),
        ({"memory.micro_batch": 5}, "memory.micro_batch=5: a step has train.batch_size=4 pairs; use at most that"),
        (
            {"speed.completion_head": False},
            "speed.completion_head=false: packed pairs need it; set speed.share_prompt=false too",
        ),
        (
            {"train.reference_logprobs": "recorded", "train.reference": "policy_0"},
            "train.reference_logprobs=recorded: .*set train.reference=previous, or computed",
        ),
        (
            {"generation.kind": "self_instruct", "prompts.kind": "constraints"},
            "generation.kind=self_instruct: prompts=constraints draws its own without end; use generation=none",
        ),
        (
            {"generation.kind": "evolve", "judge.kind": "verifier", "prompts.answer_column": "answer"},
            "judge.kind=verifier: what a policy writes carries nothing to check; use judge=expected",
        ),
        ({"generation.kind": "documents"}, "documents.path=null: generation=documents asks about documents"),
        (
            {"generation.kind": "documents", "documents.path": ".", "documents.styles": "easy"},
            "documents.styles=easy: .*takes its questions from the style question_answer; add it",
        ),
        ({"tuning.ratings.highest_score": 0.0}, "tuning.ratings.highest_score=0.0: scores begin at .*lowest_score=0;"),
        ({"gate.language": "english"}, "gate.language=english: use the code of a language, such as en, de or zh, or"),
        (
            {"generation.kind": "self_instruct", "generation.language": "xx"},
            "generation.language=xx: use the code of a language",
        ),
        ({"prompts.split": "test"}, "prompts.split=test: prompts=seed_pool reads none; set prompts=dataset too"),
        ({"prompts.level": 2}, "prompts.level=2: prompts=seed_pool reads none; set prompts=reasoning too"),
        (
            {"tuning.ratings.path": __file__, "tuning.ratings.format": "ultrafeedback"}
            | {"tuning.ratings.highest_score": 10.0},
            "tuning.ratings.highest_score=10.0: tuning.ratings.format=ultrafeedback reads none; leave it out, or use",
        ),
        (
            {"tuning.demonstrations.score_column": "points"},
            "tuning.demonstrations.score_column=points: .*format=columns reads none; leave it out, or use groups",
        ),
        ({"people.held_out": 3}, "people.held_out=3: all of people is there to measure by; leave it at 0"),
        (
            {"people.path": __file__, "judge.kind": "verifier", "prompts.kind": "constraints"},
            "judge.kind=verifier: answers that people rated carry nothing to check; leave people.path out",
        ),
        (
            {"evaluation.judge": "independent"},
            "evaluation.judge=independent: it is tuned on ratings that are kept apart",
        ),
        (
            INDEPENDENT | {"evaluation.engine": "outside", "engines": {"outside": EngineConfig()}},
            "evaluation.engine=outside: the independent judge runs on the run's own; leave it out",
        ),
        (
            INDEPENDENT | {"judge.mode": "sampled"},
            "judge.mode=sampled: the independent judge learns score tokens alone; use judge.mode=expected",
        ),
        ({"sampling.temperature": 0}, "sampling.temperature=0: all candidates of a prompt would be the same"),
    ],
)
def test_settings_that_do_not_go_together_are_refused_and_the_error_names_both(
    cfg: RunConfig, overrides: dict[str, Any], message: str
) -> None:
    assert_refused(cfg, overrides, message)


RECORDED = {"train.reference_logprobs": "recorded", "train.reference": "policy_0"}
ABOUT_DOCUMENTS = {"generation.kind": "documents", "documents.path": ".", "documents.styles": "easy"}


@pytest.mark.parametrize(
    ("refused", "remedy"),
    [
        ({"engine.merge_adapter": True}, {"train.reference": "policy_0"}),
        ({"engine.merge_adapter": True}, {"engine.merge_adapter": False}),
        ({"sampling.max_new_tokens": 600}, {"train.max_length": 1112}),
        ({"sampling.max_new_tokens": 600}, {"sampling.max_prompt_tokens": 424}),
        ({"train.max_length": 607}, {"train.max_length": 608}),
        ({"memory.micro_batch": 5}, {"memory.micro_batch": 4}),
        ({"speed.completion_head": False}, {"speed.share_prompt": False}),
        (RECORDED, {"train.reference": "previous"}),
        (RECORDED, {"train.reference_logprobs": "computed"}),
        ({"generation.kind": "self_instruct", "prompts.kind": "constraints"}, {"generation.kind": "none"}),
        (ABOUT_DOCUMENTS, {"documents.styles": "easy,question_answer"}),
        ({"people.held_out": 3}, {"people.held_out": 0}),
        ({"evaluation.judge": "independent"}, INDEPENDENT),
        (INDEPENDENT | {"judge.mode": "sampled"}, {"judge.mode": "expected"}),
        (INDEPENDENT | {"judge.mode": "sampled"}, {"evaluation.judge": "policy_0"}),
    ],
)
def test_what_an_error_names_as_a_remedy_is_one(
    cfg: RunConfig, refused: dict[str, Any], remedy: dict[str, Any]
) -> None:
    override_all(cfg, refused)
    with pytest.raises(ConfigError):
        validate(cfg, KINDS)
    override_all(cfg, remedy)
    validate(cfg, KINDS)


# References


@pytest.mark.parametrize(
    ("overrides", "taken"),
    [
        ({}, "computed"),
        ({"model.dtype": "float32"}, "recorded"),
        ({"model.dtype": "float32", "train.reference": "policy_0"}, "computed"),
        ({"model.dtype": "float32", "engine.kind": "server"}, "computed"),
        ({"model.dtype": "float32", "engine.merge_adapter": True}, "computed"),
        ({"model.dtype": "float32", "train.reference_logprobs": "computed"}, "computed"),
        ({"train.reference_logprobs": "recorded"}, "recorded"),
    ],
)
def test_what_sampling_recorded_is_the_reference_where_it_is_exact(
    cfg: RunConfig, overrides: dict[str, Any], taken: str
) -> None:
    override_all(cfg, overrides)
    assert cfg.reference_logprobs(sampled=cfg.train.reference == "previous") == taken


# Folders


@pytest.mark.parametrize("key", ["output_dir", "artifacts_dir"])
def test_a_folder_that_can_not_be_written_is_refused(cfg: RunConfig, tmp_path: Path, key: str) -> None:
    (tmp_path / "file").write_text("in the way")
    override(cfg, key, str(tmp_path / "file" / "below"))
    with pytest.raises(ConfigError, match=rf"{key}={tmp_path}/file/below: can't be written .*; choose another folder"):
        check_folders(cfg)


def test_folders_are_made_once_they_are_known_to_be_right_and_not_before(cfg: RunConfig, tmp_path: Path) -> None:
    validate(cfg, KINDS)
    assert [*tmp_path.iterdir()] == []
    check_folders(cfg)
    assert sorted(path.name for path in (tmp_path / "outputs").iterdir()) == ["artifacts", "run"]


def test_artifacts_lie_beside_the_run_unless_said_otherwise(cfg: RunConfig, tmp_path: Path) -> None:
    assert artifacts_dir(cfg) == tmp_path / "outputs" / "artifacts"
    cfg.artifacts_dir = "elsewhere"
    assert artifacts_dir(cfg) == Path("elsewhere")
