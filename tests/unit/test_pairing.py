"""Preference pairs: the best against the worst, ties dropped, missing scores on neither side."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfreward.config import PairsConfig
from selfreward.errors import NoPairsError
from selfreward.pairing import PAIRINGS, best_worst
from selfreward.pairing.base import Scored
from selfreward.records import Candidate, Judgement, PreferencePair
from selfreward.stages.pairs import PAIRS, PairsIdentity, join
from selfreward.store import Artifact, Store
from tests.unit.making import artifact, candidate, judgement, tools

scores = st.floats(0, 5)
margins = st.floats(0, 6)


def scored(values: list[float]) -> list[Scored]:
    return [Scored(candidate(index=index), value) for index, value in enumerate(values)]


# The rule `best_worst`


@given(st.lists(scores, min_size=2), margins)
def test_the_highest_score_is_chosen_over_the_lowest_or_else_they_are_within_the_margin(
    values: list[float], margin: float
) -> None:
    pair = best_worst.pair(scored(values), margin)
    if pair is None:
        assert max(values) - min(values) <= margin
    else:
        assert (pair.chosen.score, pair.rejected.score) == (max(values), min(values))
        assert pair.chosen.score - pair.rejected.score > margin


@given(st.lists(scores, min_size=2, unique=True), margins, st.randoms(use_true_random=False))
def test_the_order_of_candidates_does_not_matter_where_scores_differ(
    values: list[float], margin: float, random
) -> None:
    candidates = scored(values)
    before = best_worst.pair(candidates, margin)
    random.shuffle(candidates)
    assert best_worst.pair(candidates, margin) == before


@given(scores, st.integers(2, 6))
def test_a_tie_makes_no_pair(value: float, count: int) -> None:
    assert best_worst.pair(scored([value] * count), 0.0) is None


def test_of_equal_scores_the_first_candidate_counts() -> None:
    pair = best_worst.pair(scored([3, 5, 1, 5, 1]), 0.0)
    assert pair is not None
    assert (pair.chosen.candidate.index, pair.rejected.candidate.index) == (1, 2)


# Scores meet candidates by prompt and number


@given(st.dictionaries(st.sampled_from("abcdef"), st.lists(st.none() | scores, min_size=1, max_size=4)), st.data())
def test_each_candidate_gets_its_own_score_however_judgements_are_ordered(
    table: dict[str, list[float | None]], data: st.DataObject
) -> None:
    candidates = [candidate(prompt, index) for prompt, row in table.items() for index in range(len(row))]
    judgements = [judgement(prompt, index, score) for prompt, row in table.items() for index, score in enumerate(row)]
    joined = join(candidates, data.draw(st.permutations(judgements)))
    found = {(s.candidate.prompt_id, s.candidate.index): s.score for group in joined for s in group}
    assert len(joined) == len(table)
    assert found == {(j.prompt_id, j.index): j.score for j in judgements if j.score is not None}


def test_a_missing_score_in_the_middle_does_not_shift_those_after_it() -> None:
    candidates = [candidate("a", index) for index in range(3)] + [candidate("b", 0)]
    judgements = [judgement("a", 0, 1.0), judgement("a", 1, None), judgement("a", 2, 3.0), judgement("b", 0, 4.0)]
    joined = join(candidates, judgements)
    assert [[(s.candidate.index, s.score) for s in group] for group in joined] == [[(0, 1.0), (2, 3.0)], [(0, 4.0)]]


# The stage


def pairs_of(
    root: Path,
    table: dict[str, list[float | None]],
    margin: float = 0.0,
    cut_off: str = "keep",
    cut: Collection[tuple[str, int]] = (),
) -> Artifact:
    """The pairs of candidates with these scores, through a store. Candidate k of a prompt has 3 + k tokens, and those
    in `cut` have no end."""
    store = Store(root, tools())
    candidates = [
        replace(candidate(prompt, k, tokens=3 + k), finished=(prompt, k) not in cut)
        for prompt, row in table.items()
        for k in range(len(row))
    ]
    judgements = [judgement(prompt, k, score) for prompt, row in table.items() for k, score in enumerate(row)]
    parents = {
        "candidates": artifact(store, "candidates", candidates, Candidate),
        "judgements": artifact(store, "judgements", judgements, Judgement),
    }
    return store.run(PAIRS, PairsIdentity(PairsConfig(margin=margin, cut_off=cut_off)), parents)


def test_a_pair_holds_the_tokens_log_probabilities_and_scores_of_its_two_candidates(tmp_path: Path) -> None:
    (pair,) = pairs_of(tmp_path, {"a": [2.0, 4.5, 1.0]}).read(PreferencePair)
    chosen, rejected = candidate("a", 1, tokens=4), candidate("a", 2, tokens=5)
    assert (pair.prompt_id, pair.prompt, pair.prompt_ids) == ("a", chosen.prompt, chosen.prompt_ids)
    assert (pair.chosen_index, pair.chosen_score, pair.rejected_index, pair.rejected_score) == (1, 4.5, 2, 1.0)
    assert (pair.chosen_ids, pair.chosen_logprobs) == (chosen.token_ids, chosen.logprobs)
    assert (pair.rejected_ids, pair.rejected_logprobs) == (rejected.token_ids, rejected.logprobs)


def test_a_candidate_whose_judgement_could_not_be_read_is_neither_chosen_nor_rejected(tmp_path: Path) -> None:
    pairs = pairs_of(tmp_path, {"a": [None, 3.0, 2.0], "b": [2.0, None, 5.0]}).read(PreferencePair)
    assert [(pair.chosen_index, pair.rejected_index) for pair in pairs] == [(1, 2), (2, 0)]


def test_ties_and_prompts_without_two_scores_are_dropped_and_counted(tmp_path: Path) -> None:
    table: dict[str, list[float | None]] = {
        "pair": [1.0, 2.0],
        "tie": [3.0, 3.0, None],
        "one score": [None, 5.0],
        "no score": [None, None],
    }
    made = pairs_of(tmp_path, table)
    assert [pair.prompt_id for pair in made.read(PreferencePair)] == ["pair"]
    assert {key: made.metrics[key] for key in ("prompts", "pairs", "ties", "unscored")} == {
        "prompts": 4,
        "pairs": 1,
        "ties": 1,
        "unscored": 2,
    }
    assert (made.metrics["yield"], made.metrics["tie_rate"]) == (0.25, 0.25)


def test_a_difference_of_just_the_margin_is_a_tie(tmp_path: Path) -> None:
    made = pairs_of(tmp_path, {"at it": [1.0, 2.0], "above it": [1.0, 2.5]}, margin=1.0)
    assert [pair.prompt_id for pair in made.read(PreferencePair)] == ["above it"]


def test_metrics_say_how_long_and_how_far_apart_both_sides_are(tmp_path: Path) -> None:
    metrics = pairs_of(tmp_path, {"a": [5.0, 1.0], "b": [2.0, 4.0]}).metrics
    assert metrics["score_margin"] == 3.0
    assert (metrics["chosen_tokens"], metrics["rejected_tokens"]) == (3.5, 3.5)
    assert metrics["longer_chosen_share"] == 0.5


def test_a_candidate_that_was_cut_off_may_be_rejected_and_where_that_is_asked_not_chosen(tmp_path: Path) -> None:
    table: dict[str, list[float | None]] = {
        "best is cut": [5.0, 3.0, 1.0],
        "worst is cut": [5.0, 3.0, 1.0],
        "all are cut": [5.0, 1.0],
        "one ended, the worst": [5.0, 1.0],
    }
    cut = [("best is cut", 0), ("worst is cut", 2), ("all are cut", 0), ("all are cut", 1), ("one ended, the worst", 0)]
    kept = pairs_of(tmp_path, table, cut=cut)
    assert (kept.metrics["pairs"], kept.metrics["cut_off"]) == (4, 0)
    assert (kept.metrics["chosen_finished_share"], kept.metrics["rejected_finished_share"]) == (0.25, 0.5)
    made = pairs_of(tmp_path, table, cut_off="not_chosen", cut=cut)
    assert [(pair.prompt_id, pair.chosen_index, pair.rejected_index) for pair in made.read(PreferencePair)] == [
        ("best is cut", 1, 2),
        ("worst is cut", 0, 2),
    ]
    assert (made.metrics["cut_off"], made.metrics["ties"], made.metrics["chosen_finished_share"]) == (2, 0, 1.0)


def test_where_all_candidates_are_cut_off_the_error_names_the_length(tmp_path: Path) -> None:
    said = (
        r"\(0 ties, 0 without two scores, 1 without a choice that ended\): raise sampling\.max_new_tokens, or use pairs"
    )
    with pytest.raises(NoPairsError, match=said):
        pairs_of(tmp_path, {"a": [5.0, 1.0]}, cut_off="not_chosen", cut=[("a", 0), ("a", 1)])


def test_an_iteration_without_a_pair_is_an_error_that_counts_and_names_the_remedy(tmp_path: Path) -> None:
    expected = (
        r"no preference pair in 3 prompts \(2 ties, 1 without two scores\): "
        "raise sampling.n or sampling.temperature, or lower pairs.margin"
    )
    with pytest.raises(NoPairsError, match=expected):
        pairs_of(tmp_path, {"a": [1.0, 1.0], "b": [2.0, 2.5], "c": [None, 4.0]}, margin=1.0)


@pytest.mark.parametrize(
    ("scores", "remedy"),
    [
        pytest.param({"a": [1.0, 1.0]}, "raise sampling.n or sampling.temperature$", id="no margin to lower"),
        pytest.param({"a": [None, 1.0]}, "no score token likely; take model.dtype=bfloat16 or", id="nothing likely"),
    ],
)
def test_no_remedy_is_named_that_could_not_help(tmp_path: Path, scores: dict[str, list[Any]], remedy: str) -> None:
    with pytest.raises(NoPairsError, match=remedy):
        pairs_of(tmp_path, scores)


def test_every_pairing_rule_is_a_function_that_drops_ties() -> None:
    assert all(rule(scored([2.0, 2.0]), 0.0) is None for rule in PAIRINGS.values())
