"""How sure one is of a mean, of a few wins and losses, and of what is left at equal length."""

from __future__ import annotations

import math
import random
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfreward.intervals import Interval, bootstrap, bootstrap_ratio, length_controlled, sign_test

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
