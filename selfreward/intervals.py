"""How sure one can be of a mean: bootstrap intervals by percentiles (Efron and Tibshirani 1993, chapter 13), and of a
few wins and losses the sign test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb

import numpy as np

_STEPS = 30  # of Newton's method, which needs about six
_RIDGE = np.diag([1e-3, 0.1])
"""Keeps a fit finite where all duels go one way, or all longer answers win; the rate itself it hardly moves."""
_LEAST_AROUND = 5
"""Duels that must be on either side of equal length, or at it, for anything to be said of it."""


@dataclass(frozen=True)
class Interval:
    """A bootstrap confidence interval."""

    low: float
    high: float


def percentiles(values: np.ndarray, confidence: float) -> Interval:
    """The interval that holds this share of values in its middle."""
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(low), float(high))


def bootstrap(values: Sequence[float], samples: int, confidence: float, seed: int) -> Interval:
    """The bootstrap interval of the mean of `values`, of which there is one at least."""
    generator = np.random.default_rng(seed)
    drawn = generator.choice(np.asarray(values, dtype=np.float64), size=(samples, len(values)))
    return percentiles(drawn.mean(axis=1), confidence)


def bootstrap_ratio(
    sums: Sequence[float], counts: Sequence[float], samples: int, confidence: float, seed: int
) -> Interval | None:
    """The interval of sum(sums) / sum(counts), by a bootstrap over clusters: each group (G) is given by its sum and its
    count, and drawn whole, for what is in one is not independent. None of fewer than two: one alone says nothing."""
    if len(sums) < 2:
        return None
    sums_G, counts_G = np.asarray(sums, dtype=np.float64), np.asarray(counts, dtype=np.float64)
    drawn_SG = np.random.default_rng(seed).integers(len(sums_G), size=(samples, len(sums_G)))
    return percentiles(sums_G[drawn_SG].sum(1) / counts_G[drawn_SG].sum(1), confidence)


def sign_test(wins: int, losses: int) -> float:
    """How probable it is that a fair coin falls as unevenly, to either side."""
    tosses = wins + losses
    tail = sum(comb(tosses, heads) for heads in range(max(wins, losses), tosses + 1))
    return min(1.0, 2 * tail / 2**tosses)


def length_controlled(
    wins: Sequence[float], longer_by: Sequence[float], samples: int, confidence: float, seed: int
) -> tuple[float, Interval] | None:
    """The win rate that would be left if answers were as long as those they are held against, and its interval.

    None where fewer than five are no longer, or fewer than five no shorter: then hardly anything is known of equal
    length. Ties at equal length are not among the five, for equal answers tie, which says nothing.

    As in length-controlled AlpacaEval (arXiv 2404.04475, section 3), of one model, without its term for prompts, and
    with wins in place of the judge's probability: a logistic regression of wins (1, 0, a half for a tie) on the
    difference in length over its standard deviation, squashed by tanh; the win rate is what it gives for no difference.
    """
    longer_D, wins_D = np.asarray(longer_by, dtype=np.float64), np.asarray(wins, dtype=np.float64)
    telling_D = longer_D[(longer_D != 0) | (wins_D != 0.5)]
    if min((telling_D <= 0).sum(), (telling_D >= 0).sum()) < _LEAST_AROUND:
        return None
    spread = longer_D.std() or 1.0
    inputs_D2 = np.stack([np.ones(len(longer_D)), np.tanh(longer_D / spread)], 1)
    drawn_SD = np.random.default_rng(seed).integers(len(wins_D), size=(samples, len(wins_D)))
    counts_SD = np.stack([np.bincount(drawn_D, minlength=len(wins_D)) for drawn_D in drawn_SD])
    rates_S = _at_equal_length(inputs_D2, wins_D, np.concatenate([np.ones((1, len(wins_D))), counts_SD]))
    return float(rates_S[0]), percentiles(rates_S[1:], confidence)


def _at_equal_length(inputs_D2: np.ndarray, wins_D: np.ndarray, counts_SD: np.ndarray) -> np.ndarray:
    """The fitted win rate at no difference, of each sample given by how often each duel is in it."""
    weights_S2 = np.zeros((len(counts_SD), 2))
    for _ in range(_STEPS):
        rates_SD = 1 / (1 + np.exp(-weights_S2 @ inputs_D2.T))
        gradient_S2 = (counts_SD * (rates_SD - wins_D)) @ inputs_D2 + weights_S2 @ _RIDGE
        curvature_SD = counts_SD * rates_SD * (1 - rates_SD)
        hessian_S22 = np.einsum("sd,di,dj->sij", curvature_SD, inputs_D2, inputs_D2) + _RIDGE
        weights_S2 -= np.linalg.solve(hessian_S22, gradient_S2[:, :, None])[:, :, 0]
    return 1 / (1 + np.exp(-weights_S2[:, 0]))
