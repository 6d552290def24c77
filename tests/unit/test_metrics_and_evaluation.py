"""How a policy is held against policy 0, how sure one is of it, and how it is shown."""

from __future__ import annotations

import math
import random
from pathlib import Path
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfreward.cap import GIB
from selfreward.hygiene.diversity import distinct_n
from selfreward.intervals import Interval, bootstrap, bootstrap_ratio, length_controlled, sign_test
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


# Confidence

outcomes = st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=1, max_size=40)


@given(outcomes, st.integers(0, 5))
def test_an_interval_covers_the_mean_and_is_the_same_each_time(values: list[float], seed: int) -> None:
    interval = bootstrap(values, 200, 0.95, seed)
    assert interval.low - 1e-12 <= fmean(values) <= interval.high + 1e-12
    assert interval == bootstrap(values, 200, 0.95, seed)


@given(outcomes)
def test_more_confidence_takes_an_interval_at_least_as_wide(values: list[float]) -> None:
    narrow, wide = (bootstrap(values, 200, confidence, seed=0) for confidence in (0.8, 0.99))
    assert wide.low <= narrow.low <= narrow.high <= wide.high


def test_where_all_values_are_equal_so_are_the_ends() -> None:
    interval = bootstrap([0.5] * 10, 200, 0.95, seed=0)
    assert (interval.low, interval.high) == (0.5, 0.5)


def test_for_many_values_an_interval_is_that_of_the_normal_distribution() -> None:
    generator = random.Random(0)
    values = [float(generator.random() < 0.6) for _ in range(1000)]
    mean = fmean(values)
    half = 1.96 * math.sqrt(mean * (1 - mean) / len(values))
    interval = bootstrap(values, 4000, 0.95, seed=0)
    assert (interval.low, interval.high) == pytest.approx((mean - half, mean + half), abs=0.1 * half)


def test_intervals_cover_the_truth_about_as_often_as_they_promise() -> None:
    generator = random.Random(0)
    covered: list[bool] = []
    for seed in range(300):
        interval = bootstrap([float(generator.random() < 0.6) for _ in range(50)], 200, 0.9, seed)
        covered.append(interval.low <= 0.6 <= interval.high)
    assert 0.84 <= fmean(covered) <= 0.95


@pytest.mark.parametrize(
    ("wins", "losses", "probability"),
    [(0, 0, 1), (1, 1, 1), (4, 0, 1 / 8), (0, 4, 1 / 8), (1, 4, 3 / 8), (6, 0, 1 / 32)],
)
def test_the_sign_test_says_how_probable_it_is_that_a_fair_coin_falls_as_unevenly(
    wins: int, losses: int, probability: float
) -> None:
    assert sign_test(wins, losses) == probability


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


# Groups, and lengths


def test_of_groups_of_one_the_ratio_is_a_mean() -> None:
    values = [0.0, 1.0, 1.0, 0.5] * 20
    ratio, mean = bootstrap_ratio(values, [1] * 80, 4000, 0.9, 0), bootstrap(values, 4000, 0.9, 0)
    assert ratio
    assert (ratio.low, ratio.high) == pytest.approx((mean.low, mean.high), abs=0.02)


def test_what_comes_in_groups_is_known_less_well() -> None:
    apart = bootstrap_ratio([1.0, 0.0] * 20, [1] * 40, 2000, 0.9, 0)
    together = bootstrap_ratio([10.0, 0.0] * 2, [10] * 4, 2000, 0.9, 0)
    assert apart and together
    assert bootstrap_ratio([10.0], [10], 2000, 0.9, 0) is None  # one group alone says nothing of others
    assert together.high - together.low > 2 * (apart.high - apart.low)


def equal_length(wins: list[float], longer: list[float], samples: int) -> tuple[float, Interval]:
    found = length_controlled(wins, longer, samples, 0.95, 0)
    assert found is not None
    return found


@pytest.mark.parametrize("longer", [[50.0, 40.0] * 12, [-3.0] * 24])
def test_where_all_answers_are_longer_or_all_shorter_nothing_is_said_of_equal_length(longer: list[float]) -> None:
    assert length_controlled([1.0, 1.0, 0.0, 1.0] * 6, longer, 100, 0.95, 0) is None


def test_where_the_longer_answer_wins_nine_times_in_ten_nothing_is_left_at_equal_length() -> None:
    longer = [40.0] * 60 + [-40.0] * 30
    wins = [1.0] * 54 + [0.0] * 6 + [1.0] * 3 + [0.0] * 27
    rate, around = equal_length(wins, longer, 500)
    assert fmean(wins) > 0.6
    assert around.low < 0.5 < around.high
    assert rate == pytest.approx(0.5, abs=0.03)


def test_where_length_has_no_say_the_win_rate_stays() -> None:
    longer = [40.0, -40.0, 40.0, -40.0] * 25
    wins = [1.0, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0, 0.0] * 12 + [1.0] * 4
    rate, around = equal_length(wins, longer, 500)
    assert rate == pytest.approx(fmean(wins), abs=0.02)
    assert around.low < rate < around.high


@pytest.mark.parametrize("wins", [[1.0] * 10, [0.0] * 10, [0.5] * 10])
def test_duels_that_all_go_one_way_have_a_finite_rate(wins: list[float]) -> None:
    rate, around = equal_length(wins, [-5.0, -4.0, -3.0, -2.0, -1.0, 1.0, 2.0, 3.0, 4.0, 5.0], 100)
    assert 0 <= around.low <= around.high <= 1
    assert (rate, around.low, around.high) == pytest.approx([wins[0]] * 3, abs=0.01)


@pytest.mark.parametrize(
    ("longer", "wins"),
    [
        pytest.param([30.0] * 23 + [0.0], [1.0] * 23 + [0.5], id="one equal answer beside longer ones that win"),
        pytest.param([30.0] * 20 + [-1.0] * 4, [1.0] * 20 + [0.0] * 4, id="four shorter ones"),
        pytest.param([0.0], [1.0], id="one duel"),
    ],
)
def test_few_duels_around_equal_length_say_nothing_of_it(longer: list[float], wins: list[float]) -> None:
    assert length_controlled(wins, longer, 100, 0.95, 0) is None


def test_of_answers_that_are_all_of_one_length_the_win_rate_is_what_it_is() -> None:
    rate, around = equal_length([1.0] * 9 + [0.0] * 3, [0.0] * 12, 2000)
    plain = bootstrap([1.0] * 9 + [0.0] * 3, 2000, 0.95, 0)
    assert rate == pytest.approx(0.75, abs=1e-3)
    assert (around.low, around.high) == pytest.approx((plain.low, plain.high), abs=0.1)


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.5, 1.0]), st.integers(-90, 90)), min_size=12, max_size=60))
def test_a_rate_at_equal_length_is_a_share_within_its_interval_s_reach(duels: list[tuple[float, int]]) -> None:
    found = length_controlled([win for win, _ in duels], [longer for _, longer in duels], 200, 0.95, 0)
    if found:
        rate, around = found
        assert 0 <= around.low <= around.high <= 1 and 0 <= rate <= 1


def test_every_metric_that_is_shown_is_explained() -> None:
    page = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
    keys = {f"{part}/{name}" for part, names in NAMES.items() for name in names if "_parity" not in part}
    assert [key for key in sorted(keys) if f"`{key.removesuffix('_low').removesuffix('_high')}`" not in page] == []
