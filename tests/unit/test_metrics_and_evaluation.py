"""How a policy is held against policy 0, how sure one is of it, and how it is shown."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfreward.cap import GIB
from selfreward.hygiene.diversity import distinct_n
from selfreward.records import Candidate, Judgement
from selfreward.stages.candidates import EngineIdentity
from selfreward.stages.evaluate import EVALUATE, EvaluationIdentity, duel_metrics
from selfreward.store import Artifact, Cost, Manifest, Metrics, Store
from selfreward.tracking.console import sparkline
from selfreward.tracking.metrics import NAMES, cost, summary
from tests.unit.making import artifact, candidate, comparison, judgement, tools

# Diversity


@pytest.mark.parametrize(
    ("texts", "n", "expected"),
    [
        (["a b c"], 1, 1),
        (["a a a a"], 1, 1 / 4),
        (["a b", "a b"], 1, 2 / 4),
        (["a b c", "a b d"], 2, 3 / 4),
        (["a b", "b a"], 2, 1),
        (["a  b\nc"], 2, 1),
        (["a", "b"], 2, 0),
        ([""], 1, 0),
        ([], 1, 0),
    ],
)
def test_distinct_n_is_the_share_of_n_grams_that_are_distinct(texts: list[str], n: int, expected: float) -> None:
    assert distinct_n(texts, n) == pytest.approx(expected)


def test_n_grams_do_not_reach_from_one_text_into_the_next() -> None:
    assert distinct_n(["a b", "c d"], 2) == distinct_n(["c d", "a b"], 2) == 1


# Duels


def metrics_of(*comparisons: tuple[float, float]) -> Metrics:
    return duel_metrics([comparison(first, second) for first, second in comparisons], 200, 0.95, seed=0)


def test_an_answer_wins_where_it_is_preferred_over_both_orders_together() -> None:
    metrics = metrics_of((0.9, 0.8), (0.2, 0.1), (0.9, 0.3), (0.6, 0.3))
    assert metrics["win_rate"] == 0.5
    assert metrics["preference"] == pytest.approx((0.85 + 0.15 + 0.6 + 0.45) / 4)
    assert metrics["order_agreement"] == 0.5
    assert metrics["ties"] == 0


@given(st.lists(st.floats(0, 1), min_size=1, max_size=10))
def test_a_judge_that_only_ever_looks_at_the_place_says_nothing(probabilities: list[float]) -> None:
    """It gives the first place the same probability whatever stands there, so both orders cancel out."""
    metrics = metrics_of(*((first, 1 - first) for first in probabilities))
    assert (metrics["win_rate"], metrics["ties"]) == (0.5, len(probabilities))
    assert not metrics["win_rate_shown"]


def test_a_judge_that_always_says_the_first_agrees_with_itself_in_no_duel() -> None:
    metrics = metrics_of((1.0, 0.0), (1.0, 0.0))
    assert (metrics["win_rate"], metrics["ties"], metrics["order_agreement"]) == (0.5, 2, 0.0)


def test_equal_answers_tie_whatever_the_judge_makes_of_them() -> None:
    duels = [comparison(0.9, 0.8, text="same", baseline="same"), comparison(0.9, 0.8)]
    metrics = duel_metrics(duels, 200, 0.95, seed=0)
    assert (metrics["win_rate"], metrics["ties"]) == (0.75, 1)


def test_whether_the_order_decides_is_asked_of_answers_that_differ_alone() -> None:
    """Of equal ones the judge can only follow the order."""
    equal = comparison(0.9, 0.1, text="same", baseline="same")
    assert duel_metrics([equal, comparison(0.9, 0.8)], 200, 0.95, seed=0)["order_agreement"] == 1.0
    assert duel_metrics([equal], 200, 0.95, seed=0)["order_agreement"] is None


def test_the_win_rate_of_always_taking_the_longer_answer_is_told_beside_it() -> None:
    lengths = [(3, 2), (2, 3), (2, 2), (9, 1)]
    duels = [comparison(tokens=tokens, baseline_tokens=baseline) for tokens, baseline in lengths]
    assert duel_metrics(duels, 200, 0.95, seed=0)["length_win_rate"] == (1 + 0 + 0.5 + 1) / 4


@pytest.mark.parametrize(
    ("wins", "losses", "shown"),
    [
        (20, 0, True),
        (0, 20, True),
        (18, 6, True),
        (11, 9, False),
        (2, 1, False),
        (6, 0, True),
        (5, 0, False),
        (0, 4, False),
    ],
)
def test_a_difference_counts_as_shown_where_the_interval_leaves_out_one_half_and_a_coin_seldom_falls_so(
    wins: int, losses: int, shown: bool
) -> None:
    metrics = metrics_of(*[(0.9, 0.9)] * wins, *[(0.1, 0.1)] * losses)
    assert metrics["win_rate_shown"] is shown
    assert metrics["win_rate_low"] <= metrics["win_rate"] <= metrics["win_rate_high"]
    assert metrics["confidence"] == 0.95


def test_ties_do_not_make_a_difference_surer() -> None:
    decided = [(0.9, 0.9)] * 5
    assert not metrics_of(*decided, *[(0.5, 0.5)] * 20)["win_rate_shown"]
    assert metrics_of(*decided, (0.9, 0.9), *[(0.5, 0.5)] * 20)["win_rate_shown"]


def test_of_equal_policies_no_more_are_called_different_than_the_confidence_allows() -> None:
    """For each number of duels: how often a fair coin gives as many wins as are then called shown."""
    for count in range(1, 13):
        shown = [
            wins
            for wins in range(count + 1)
            if metrics_of(*[(0.9, 0.9)] * wins, *[(0.1, 0.1)] * (count - wins))["win_rate_shown"]
        ]
        assert sum(math.comb(count, wins) for wins in shown) / 2**count <= 0.05


# The stage


def evaluation_of(root: Path, answers: list[Candidate]) -> Artifact:
    """The evaluation of policy 0, which is compared with nobody."""
    store = Store(root, tools())
    scores = [judgement(answer.prompt_id, 0, 3.0) for answer in answers]
    known = {"mean_score": 3.0, "parse_failure_rate": 0.0, "scored": 2}
    parents = {
        "candidates": artifact(store, "candidates", answers, Candidate, {"prompts_too_long": 1}),
        "judgements": artifact(store, "judgements", scores, Judgement, known),
    }
    settings = EvaluationIdentity(200, 0.95, (), EngineIdentity("hf", merge_adapter=False))
    return store.run(EVALUATE, settings, parents, seed=0)


def test_policy_0_is_measured_and_not_compared(tmp_path: Path) -> None:
    answers = [candidate("a", 0, "one two", tokens=2), candidate("b", 0, "one three", tokens=5)]
    assert evaluation_of(tmp_path, answers).metrics == {
        "answers": 2,
        "prompts_too_long": 1,
        "scored": 2,
        "mean_score": 3.0,
        "parse_failure_rate": 0.0,
        "mean_tokens": 3.5,
        "finished_share": 1.0,
        "distinct_1": 0.75,
        "distinct_2": 1.0,
    }


# What is shown


def made(metrics: Metrics, cost: Cost, id: str = "one") -> Artifact:
    return Artifact(Path(), Manifest("stage", 1, id, {}, {}, None, {}, metrics, cost))


def test_a_summary_names_metrics_by_their_part_and_leaves_out_what_was_not_measured() -> None:
    iteration = {
        "policy": made({}, Cost(1.5, 10, 2 * GIB)),
        "evaluation": made({"mean_score": None, "mean_tokens": 7.0, "unlisted": 1}, Cost(2.0, 5, 3 * GIB), "two"),
    }
    assert summary(iteration) == {
        "evaluation/mean_tokens": 7.0,
        "cost/seconds": 3.5,
        "cost/tokens": 15,
        "cost/peak_memory_gib": 3.0,
    }


def test_training_is_summed_up_by_its_first_step_and_the_last_quarter_of_its_steps() -> None:
    curve = [8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0]
    training = {"loss": curve, "reward_margin": curve[::-1], "reward_accuracy": [0.5] * 7 + [1.0], "steps": 8}
    found = summary({"pairs": made({}, Cost()), "policy": made(training, Cost())})
    assert {name: value for name, value in found.items() if name.startswith("train/")} == {
        "train/loss_first": 8.0,
        "train/loss_last": 1.5,
        "train/reward_margin": 7.5,
        "train/reward_accuracy": 0.75,
        "train/steps": 8,
    }


costs = st.builds(Cost, st.integers(0, 100), st.integers(0, 1000), st.integers(0, 1000))


@given(st.lists(costs))
def test_costs_add_up_but_for_memory_of_which_the_highest_counts(parts: list[Cost]) -> None:
    total = cost({str(i): made({}, part, f"{i}") for i, part in enumerate(parts)})
    assert total.seconds == sum(part.seconds for part in parts)
    assert total.tokens == sum(part.tokens for part in parts)
    assert total.peak_memory_bytes == max((part.peak_memory_bytes for part in parts), default=0)


def test_what_has_two_names_is_paid_for_once() -> None:
    """Policy 0, where it has learned from documents and from nothing else."""
    policy = made({}, Cost(2.0, 5, GIB))
    assert cost({"pretrained": policy, "policy": policy}) == policy.manifest.cost


@pytest.mark.parametrize(
    ("counts", "bars"),
    [([0, 1, 2, 4, 8], " ▁▂▄█"), ([0, 1, 1000], " ▁█"), ([3, 3], "██"), ([0, 0], "  "), ([], "")],
)
def test_a_sparkline_has_a_bar_for_each_count_and_shows_any_above_zero(counts: list[int], bars: str) -> None:
    assert sparkline(counts) == bars


def test_every_metric_that_is_shown_is_explained() -> None:
    page = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
    keys = {f"{part}/{name}" for part, names in NAMES.items() for name in names if "_parity" not in part}
    assert [key for key in sorted(keys) if f"`{key.removesuffix('_low').removesuffix('_high')}`" not in page] == []
