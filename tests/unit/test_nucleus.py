"""Nucleus sampling: the textbook's distribution (Holtzman et al., arXiv 1904.09751), drawn without sorting it all."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from selfreward.engines.local import nucleus

DRAWS = 50_000


def textbook(logits: list[float], temperature: float, top_p: float) -> dict[int, float]:
    """The nucleus and its probabilities, written as the paper defines it: sort, add up, cut, renormalise."""
    highest = max(logits)
    weights = [math.exp((logit - highest) / temperature) for logit in logits]
    probabilities = [weight / math.fsum(weights) for weight in weights]
    kept: dict[int, float] = {}
    for token in sorted(range(len(logits)), key=lambda token: -probabilities[token]):
        kept[token] = probabilities[token]
        if math.fsum(kept.values()) >= top_p:
            break
    total = math.fsum(kept.values())
    return {token: probability / total for token, probability in kept.items()}


def uniforms(count: int, seed: int = 0) -> Tensor:
    return torch.rand(count, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def random_logits(rows: int, vocabulary: int, spread: float, seed: int = 0) -> Tensor:
    return spread * torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(seed))


def chi_square_p(observed: dict[int, int], expected: dict[int, float]) -> float:
    """The probability of a fit at least this bad, by Wilson and Hilferty's cube root (1931)."""
    total = sum(observed.values())
    freedom = len(expected) - 1
    statistic = sum((observed.get(t, 0) - p * total) ** 2 / (p * total) for t, p in expected.items())
    z = ((statistic / freedom) ** (1 / 3) - (1 - 2 / (9 * freedom))) / math.sqrt(2 / (9 * freedom))
    return math.erfc(z / math.sqrt(2)) / 2


# The distribution


@pytest.mark.parametrize("likeliest", [(3,), (2, 6), ()], ids=["most rows sorted in full", "by stages", "all sorted"])
@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 0.9), (0.7, 0.9), (1.5, 0.95), (1.0, 0.5), (1.0, 1.0)])
def test_tokens_are_drawn_as_often_as_the_textbook_says(
    monkeypatch: pytest.MonkeyPatch, temperature: float, top_p: float, likeliest: tuple[int, ...]
) -> None:
    monkeypatch.setitem(nucleus.LIKELIEST, "cpu", likeliest)
    logits = random_logits(1, 20, spread=1.5)
    expected = textbook(logits[0].tolist(), temperature, top_p)
    tokens, _ = nucleus.draw(logits.expand(DRAWS, -1), uniforms(DRAWS), temperature, top_p)
    drawn, counts = tokens.unique(return_counts=True)
    observed = dict(zip(drawn.tolist(), counts.tolist(), strict=True))
    assert observed.keys() <= expected.keys()
    assert len(expected) > 2
    assert chi_square_p(observed, expected) > 1e-4


def test_the_chi_square_above_notices_a_token_drawn_a_tenth_too_often() -> None:
    expected = dict.fromkeys(range(10), 0.1)
    observed = dict.fromkeys(range(1, 9), 5_000) | {0: 5_500, 9: 4_500}
    assert chi_square_p(observed, expected) < 1e-4


logit_rows = st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=12)
below_one = st.floats(0, 1, exclude_max=True)


@given(logit_rows, below_one, st.floats(0.1, 3), st.floats(0.01, 1))
def test_a_drawn_token_is_always_in_the_nucleus(
    row: list[float], uniform: float, temperature: float, top_p: float
) -> None:
    token, _ = nucleus.draw(torch.tensor([row]), torch.tensor([uniform], dtype=torch.float64), temperature, top_p)
    # Float32 may put the border of the nucleus a hair away from where float64 has it.
    wider = textbook(row, temperature, min(top_p + 1e-5, 1.0))
    smallest = min(row[kept] for kept in wider)
    assert row[int(token)] >= smallest - 1e-4


@pytest.mark.parametrize("logit", [-1000.0, -40.0], ids=["no probability", "less than 1e-25"])
def test_rounding_gives_no_token_a_probability_that_it_does_not_have(logit: float) -> None:
    """However close to one the number is: what is left of it there is more than such tokens have together."""
    row = [20.0, 20.0] + [logit] * 500
    numbers = 1 - torch.logspace(-15, -3, 500, dtype=torch.float64)
    tokens, _ = nucleus.draw(torch.tensor([row]).expand(500, -1), numbers, 1.0, 1.0)
    assert {*tokens.tolist()} <= {0, 1}


# The short way and the long way


@pytest.mark.parametrize("top_p", [0.3, 0.9, 0.999, 1.0])
@pytest.mark.parametrize("spread", [0.5, 2.0, 6.0])
def test_looking_at_the_likeliest_tokens_alone_draws_the_same_token_as_sorting_them_all(
    monkeypatch: pytest.MonkeyPatch, spread: float, top_p: float
) -> None:
    logits, numbers = random_logits(100, 400, spread), uniforms(100)
    monkeypatch.setitem(nucleus.LIKELIEST, "cpu", ())
    whole = nucleus.draw(logits, numbers, 0.8, top_p)
    for likeliest in ((1,), (20,), (200,), (5, 50)):
        monkeypatch.setitem(nucleus.LIKELIEST, "cpu", likeliest)
        short = nucleus.draw(logits, numbers, 0.8, top_p)
        assert torch.equal(short[0], whole[0])
        assert torch.equal(short[1], whole[1])


def test_a_row_is_drawn_alike_alone_and_among_others() -> None:
    logits, numbers = random_logits(50, 600, 2.0), uniforms(50)
    together, _ = nucleus.draw(logits, numbers, 0.7, 0.9)
    alone = [int(nucleus.draw(logits[i : i + 1], numbers[i : i + 1], 0.7, 0.9)[0]) for i in range(50)]
    assert together.tolist() == alone


# Temperature and log-probability


def test_temperature_zero_takes_the_likeliest_token_whatever_the_number() -> None:
    logits = random_logits(100, 300, 1.0)
    tokens, _ = nucleus.draw(logits, uniforms(100), 0.0, 0.9)
    assert torch.equal(tokens, logits.argmax(-1))


def test_a_tiny_nucleus_holds_the_likeliest_token_alone() -> None:
    logits = random_logits(100, 300, 1.0)
    tokens, _ = nucleus.draw(logits, uniforms(100), 1.0, 1e-6)
    assert torch.equal(tokens, logits.argmax(-1))


@pytest.mark.parametrize(("temperature", "top_p"), [(0.0, 0.9), (0.7, 0.9), (1.0, 1.0)])
def test_log_probabilities_are_those_of_the_whole_untempered_distribution(temperature: float, top_p: float) -> None:
    logits = random_logits(200, 700, 3.0)
    tokens, logprobs = nucleus.draw(logits, uniforms(200), temperature, top_p)
    expected = logits.double().log_softmax(-1).gather(-1, tokens[:, None])[:, 0]
    assert torch.allclose(logprobs.double(), expected, atol=1e-5)


def test_logits_are_left_as_they_were() -> None:
    logits = random_logits(10, 300, 1.0)
    before = logits.clone()
    nucleus.draw(logits, uniforms(10), 0.7, 0.9)
    assert torch.equal(logits, before)
