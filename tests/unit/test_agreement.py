"""How far a judge agrees with people: pairs that people put in an order, of all lengths and of like ones."""

from __future__ import annotations

import pytest

from selfreward.records import Rating
from selfreward.stages.agreement import agreement_metrics, rated_pairs


def ratings(prompt: str, *answers: tuple[str, float]) -> list[Rating]:
    return [Rating(prompt, f"{prompt}?", text, score) for text, score in answers]


def test_a_pair_is_of_one_prompt_the_better_answer_first_and_none_that_people_find_equal() -> None:
    rated = ratings("a", ("low", 1), ("high", 5), ("as high", 5)) + ratings("b", ("alone", 3))
    pairs = rated_pairs(rated, [2.0, 4.0, 1.0, 3.0])
    assert [(pair.better, pair.worse, pair.agrees) for pair in pairs] == [("high", "low", 1.0), ("as high", "low", 0.0)]


def test_answers_that_people_ranked_apart_are_no_pair() -> None:
    rated = [
        Rating("a", "a?", text, score, group) for text, score, group in (("A", 5, "1"), ("B", 0, "1"), ("D", 0, "2"))
    ]
    assert [(pair.better, pair.worse) for pair in rated_pairs(rated, [1.0, 2.0, 3.0])] == [("A", "B")]


def test_a_judge_that_can_not_tell_is_half_right_and_one_without_a_score_is_not_asked() -> None:
    rated = ratings("a", ("low", 1), ("high", 5), ("middle", 3))
    pairs = rated_pairs(rated, [2.0, 2.0, None])
    assert [(pair.better, pair.worse, pair.agrees) for pair in pairs] == [("high", "low", 0.5)]
    assert agreement_metrics(pairs, 200, 0.95, 0)["agreement_ties"] == 1


def test_the_longer_answer_is_a_judge_too_and_like_lengths_are_looked_at_apart() -> None:
    rated = (
        ratings("a", ("x" * 10, 5), ("x" * 2, 1))  # judge right, longer right, unlike
        + ratings("b", ("x" * 8, 5), ("x" * 10, 1))  # judge right, longer wrong, alike
        + ratings("c", ("x" * 9, 5), ("x" * 9, 1))  # judge wrong, longer can't tell, alike
    )
    metrics = agreement_metrics(rated_pairs(rated, [4, 1, 3, 2, 1, 2]), 200, 0.95, 0)
    assert (metrics["pairs"], metrics["pairs_alike"]) == (3, 2)
    assert metrics["agreement"] == pytest.approx(2 / 3)
    assert metrics["longer_agreement"] == pytest.approx(1.5 / 3)
    assert (metrics["agreement_alike"], metrics["longer_agreement_alike"]) == (0.5, 0.25)
    assert metrics["agreement_low"] < metrics["agreement"] < metrics["agreement_high"]


def test_pairs_of_one_conversation_are_drawn_together() -> None:
    """Ten conversations of two turns: the interval is that of ten, not of twenty."""
    apart: list[Rating] = []
    joined: list[Rating] = []
    for n in range(10):
        first, later = f"Question {n}", f"User: Question {n}\n\nAssistant: Yes.\n\nUser: Why?"
        for asked, rated in ((f"User: Other {n}\n\nAssistant: Yes.\n\nUser: Why?", apart), (later, joined)):
            for name, prompt in ((f"{n}", first), (f"{n} later", asked)):
                rated += [Rating(name, prompt, "good", 5), Rating(name, prompt, "poor", 1)]
    scores = [float(place // 4 % 2 == place % 2) for place in range(40)]  # every other conversation, in both its turns
    wide, narrow = (agreement_metrics(rated_pairs(rated, scores), 2000, 0.95, 0) for rated in (joined, apart))
    assert wide["agreement"] == narrow["agreement"] == 0.5
    widths = [metrics["agreement_high"] - metrics["agreement_low"] for metrics in (wide, narrow)]
    assert widths[0] > 1.2 * widths[1]


def test_without_pairs_of_like_length_nothing_is_said_of_them() -> None:
    metrics = agreement_metrics(rated_pairs(ratings("a", ("x" * 10, 5), ("x", 1)), [1, 0]), 200, 0.95, 0)
    assert metrics["agreement_low"] is None  # nor does one conversation say how others would come out
    assert metrics["pairs_alike"] == 0
    assert "agreement_alike" not in metrics
