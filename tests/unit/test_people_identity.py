"""What is made of people's files depends on what it is for: to learn from, to judge by, or to measure by."""

from __future__ import annotations

import pytest

from selfreward.config import RunConfig
from tests.unit.dry_runs import artifacts, learn_from_people, moved


def test_personal_data_is_looked_for_in_what_is_learned_from_and_not_in_what_measures(cfg: RunConfig) -> None:
    learn_from_people(cfg)
    cfg.tuning.demonstrations.held_out = 1
    before = artifacts(cfg)
    cfg.gate.personal = "drop"
    first, _ = moved(before, artifacts(cfg))
    assert first >= {"demonstrations", "ratings", "policy"}
    assert not first & {"people", "demonstrations_held_out", "base_agreement"}


def test_an_independent_judge_learns_from_what_was_looked_through_too(cfg: RunConfig) -> None:
    learn_from_people(cfg)
    cfg.evaluation.judge, cfg.tuning.ratings.held_out = "independent", 1
    before = artifacts(cfg)
    cfg.gate.personal = "drop"
    assert {"independent_judge_ratings", "independent_judge"} <= moved(before, artifacts(cfg))[0]


@pytest.mark.parametrize(("key", "value"), [("contamination", "ignore"), ("run_of_words", 20), ("resemblance", 0.5)])
def test_what_counts_as_a_leak_is_nothing_to_what_measures(cfg: RunConfig, key: str, value: object) -> None:
    learn_from_people(cfg)
    cfg.tuning.demonstrations.held_out = 1
    before = artifacts(cfg)
    setattr(cfg.gate, key, value)
    assert not moved(before, artifacts(cfg))[0] & {"people", "demonstrations_held_out", "base_agreement"}


@pytest.mark.parametrize("mode", ["expected", "sampled"])
def test_seeds_share_what_is_not_drawn(cfg: RunConfig, mode: str) -> None:
    learn_from_people(cfg)
    cfg.tuning.demonstrations.held_out, cfg.judge.mode = 1, mode
    before = artifacts(cfg)
    cfg.seed += 1
    first, _ = moved(before, artifacts(cfg))
    assert first >= {"policy", "agreement", "imitation"}
    assert "base_imitation" not in first
    assert ("base_agreement" in first) == (mode == "sampled")


def test_ratings_that_are_held_out_measure_where_there_is_no_file_of_others(cfg: RunConfig) -> None:
    learn_from_people(cfg)
    cfg.people.path, cfg.tuning.ratings.held_out = None, 2
    first, *_ = artifacts(cfg)
    assert {"people", "agreement", "ratings"} <= first.keys()
    assert first["people"] != first["ratings"]
    cfg.evaluation.judge = "independent"  # then they are what it learns from
    first, *_ = artifacts(cfg)
    assert "people" not in first and "independent_judge_ratings" in first


def test_a_judge_is_taught_in_the_mode_in_which_it_will_judge(cfg: RunConfig) -> None:
    learn_from_people(cfg)
    before = artifacts(cfg)
    cfg.tuning.verdicts = "expected"
    assert artifacts(cfg) == before
    cfg.judge.mode = cfg.tuning.verdicts = "sampled"
    told = artifacts(cfg)
    cfg.tuning.verdicts = "auto"
    assert artifacts(cfg) == told != before
