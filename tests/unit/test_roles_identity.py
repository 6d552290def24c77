"""An artifact depends on the engines that play a role in it, and on the bytes of what people wrote."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from selfreward.config import EngineConfig, RunConfig
from tests.unit.dry_runs import POLICY, artifacts, iterations, learn_from_people, moved, read_documents

# Other engines by role


def test_what_an_outside_server_calls_its_model_says_which_it_is(cfg: RunConfig) -> None:
    cfg.judge.engine = "outside"
    cfg.engines["outside"].model = "one"
    before = artifacts(cfg)
    cfg.engines["outside"].model = "two"
    assert moved(before, artifacts(cfg)) == [set(), {"judgements", "pairs", "references", *POLICY}]


def test_another_server_is_held_against_training_anew_and_nothing_else_moves(cfg: RunConfig) -> None:
    cfg.engine.kind, cfg.engine.base_url = "server", "http://one:8000/v1"
    before = artifacts(cfg)
    cfg.engine.base_url = "http://two:8000/v1"
    assert moved(before, artifacts(cfg)) == [{"parity"}, {"parity"}]


def test_what_a_policy_wrote_is_left_out_where_it_is_evaluated_on_and_stops_no_run(cfg: RunConfig) -> None:
    assert "leaks" in artifacts(cfg)[0]
    cfg.generation.kind = "self_instruct"
    assert "leaks" not in artifacts(cfg)[0]


@pytest.mark.parametrize("learns", [learn_from_people, read_documents])
def test_to_leave_out_what_would_stop_the_run_makes_nothing_anew(cfg: RunConfig, learns: Any) -> None:
    learns(cfg)
    before = artifacts(cfg)
    cfg.gate.contamination = "drop"
    assert moved(before, artifacts(cfg)) == [{"leaks"}, set()]  # nobody asks for it any more


def test_rephrasings_of_which_nothing_is_made_steer_nothing(cfg: RunConfig) -> None:
    read_documents(cfg)
    cfg.documents.rephrased_share = 0.0
    before = artifacts(cfg)
    assert "rephrasings" not in before[0]
    cfg.documents.styles = "easy"
    assert moved(before, artifacts(cfg)) == [set(), set()]
    cfg.generation.kind, cfg.documents.styles = "documents", "question_answer"  # they are asked about
    assert "rephrasings" in artifacts(cfg)[0]


def test_an_engine_is_its_settings_and_not_its_name(cfg: RunConfig) -> None:
    cfg.judge.engine, cfg.evaluation.engine = "another", "outside"
    before = artifacts(cfg)
    cfg.engines = {"renamed": cfg.engines["another"], "also": cfg.engines["outside"]}
    cfg.judge.engine, cfg.evaluation.engine = "renamed", "also"
    assert artifacts(cfg) == before


def test_an_outside_tokenizer_is_its_files_and_not_its_folder(cfg: RunConfig, tmp_path: Path) -> None:
    folder = tmp_path / "theirs"
    folder.mkdir()
    (folder / "tokenizer.json").write_text("{}")
    cfg.judge.engine, cfg.engines["outside"].tokenizer = "outside", str(folder)
    before = artifacts(cfg)
    cfg.engines["outside"].tokenizer = str(shutil.copytree(folder, tmp_path / "copy"))
    assert artifacts(cfg) == before
    (tmp_path / "copy" / "tokenizer.json").write_text('{"other": 1}')
    assert "judgements" in moved(before, artifacts(cfg))[1]


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


def test_a_judge_that_asks_no_model_is_held_against_people_once(cfg: RunConfig) -> None:
    learn_from_people(cfg)
    made = artifacts(cfg)
    assert "base_agreement" in made[0] and all("agreement" in iteration for iteration in made)
    cfg.judge.kind = "length"
    first, *later = artifacts(cfg)
    assert "agreement" in first and "base_agreement" not in first
    assert later and not any("agreement" in iteration for iteration in later)


def test_another_engine_for_the_runs_own_model_judges_as_the_policy(cfg: RunConfig) -> None:
    cfg.iteration = 2
    cfg.judge.engine = cfg.evaluation.engine = "another"
    policy_0, first, second = iterations(cfg)
    assert second["judgements"].manifest.parents["policy"] == first["policy"].full_id
    assert second["held_out_judgements"].manifest.parents["policy"] == policy_0["policy"].full_id
    assert second["evaluation"].manifest.parents["judge"] == policy_0["policy"].full_id


# What people wrote, and prompts that a policy writes


def test_what_people_wrote_is_its_bytes_and_not_its_path(cfg: RunConfig, tmp_path: Path) -> None:
    learn_from_people(cfg)
    before = artifacts(cfg)
    cfg.tuning.ratings.path = str(shutil.copy(str(cfg.tuning.ratings.path), tmp_path / "copy.jsonl"))
    assert artifacts(cfg) == before
    (tmp_path / "copy.jsonl").write_text("{ }")
    assert "policy" in moved(before, artifacts(cfg))[0]


def test_without_what_people_wrote_no_setting_of_tuning_matters(cfg: RunConfig) -> None:
    before = artifacts(cfg)
    cfg.tuning.learning_rate, cfg.tuning.verdicts = 1.0, "sampled"
    assert artifacts(cfg) == before


@pytest.mark.parametrize("left_out", [None, "most_demonstrations", "most_ratings"])
def test_what_answers_weigh_beside_ratings_matters_where_both_are_learned(cfg: RunConfig, left_out: str | None) -> None:
    learn_from_people(cfg)
    if left_out:
        setattr(cfg.tuning, left_out, 0)
    before = artifacts(cfg)
    cfg.tuning.answer_weight = 1.0
    assert ("policy" in moved(before, artifacts(cfg))[0]) == (left_out is None)


@pytest.mark.parametrize("most", ["most_demonstrations", "most_ratings"])
def test_an_independent_judge_does_not_depend_on_how_much_policy_0_learns(cfg: RunConfig, most: str) -> None:
    learn_from_people(cfg)
    cfg.evaluation.judge, cfg.tuning.ratings.held_out = "independent", 5
    before = artifacts(cfg)
    setattr(cfg.tuning, most, 7)
    changed = moved(before, artifacts(cfg))[0]
    assert (
        "policy" in changed
        and not {"independent_judge_ratings", "independent_judge", "independent_judge_agreement"} & changed
    )


def test_the_policy_of_the_iteration_writes_prompts_or_policy_0(cfg: RunConfig) -> None:
    cfg.iteration, cfg.generation.kind = 2, "self_instruct"
    before = artifacts(cfg)
    cfg.generation.writer = "policy_0"
    _, first, second = moved(before, artifacts(cfg))
    assert (first, "source" in second) == (set(), True)


def test_documents_are_their_names_and_bytes_and_not_their_folder(cfg: RunConfig, tmp_path: Path) -> None:
    read_documents(cfg)
    before = artifacts(cfg)
    cfg.documents.path = str(shutil.copytree(str(cfg.documents.path), tmp_path / "copy"))
    assert artifacts(cfg) == before
    (tmp_path / "copy" / "one.txt").write_text("Another text.")
    assert {"chunks", "rephrasings", "policy", "perplexity"} <= moved(before, artifacts(cfg))[0]
