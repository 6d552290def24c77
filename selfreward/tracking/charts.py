"""The pictures of the report: pure functions from artifacts to charts. Imports matplotlib, which takes a second."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle, product
from statistics import fmean, stdev
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from selfreward.records import Comparison
from selfreward.tracking.metrics import PASS_RATE, Iteration, pass_categories, separate_judge, summary

# Okabe and Ito's colours, told apart with every kind of colour vision; no chart tells things apart by colour alone.
BLUE, ORANGE, INK, GREY, PALE = "#0072B2", "#D55E00", "#24292f", "#8c959f", "#d0d7de"
BINS = 40

_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "selfreward",  # without it, the ids inside the picture differ from one run to the next
    "font.family": "DejaVu Sans",  # comes with matplotlib, so the picture is the same on every machine
    "font.size": 8.5,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": GREY,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "lines.linewidth": 1.2,
    "lines.markersize": 5,
    "legend.frameon": False,
    "legend.fontsize": 8,
}
_REFERENCE: dict[str, Any] = {"color": GREY, "linewidth": 0.8, "linestyle": (0, (4, 3)), "zorder": 0}
_NO_METADATA = dict.fromkeys(("Date", "Creator", "Format", "Type"))

Summaries = Sequence[Mapping[str, float]]
Paint = Callable[[Axes], None]


@dataclass(frozen=True)
class Chart:
    """A picture and the words that belong to it; `source` is a data URI, so that nothing has to be fetched."""

    title: str
    caption: str
    source: str


def over_iterations(iterations: Sequence[Iteration]) -> list[Chart]:
    """How the policies do on held-out prompts, and how their training went."""
    summaries = [summary(iteration) for iteration in iterations]
    errors = "Bars: two standard errors of the mean."
    end = "Mean over the last quarter of an iteration's steps, never the first; each step's is of before its update."
    scores = [iteration["held_out_judgements"].metrics["scores"] for iteration in iterations]
    lengths = [iteration["held_out_candidates"].metrics["lengths"] for iteration in iterations]
    losses = [iteration["policy"].metrics["loss"] for iteration in iterations[1:]]
    judge = separate_judge(iterations[-1]["evaluation"].manifest) or "policy 0"
    loss = iterations[-1]["policy"].manifest.config["train"]["loss"]
    start = "A policy that equals its reference has a loss of ln 2, about 0.69." if loss == "sigmoid" else ""
    charts: list[tuple[str, str, Paint]] = [
        (
            "Win rate against policy 0",
            f"Judged by {judge}. Bars: the bootstrap interval. "
            "Diamonds: what always taking the longer answer would give.",
            partial(
                _beside_length, summaries, "evaluation/win_rate", "evaluation/length_win_rate", "policy", "win rate"
            ),
        ),
        (
            "Held-out score",
            f"On held-out prompts, with one judge for all policies. {errors}",
            partial(_means, scores, "mean score"),
        ),
        (
            "Answer length",
            f"On held-out prompts. {errors} {_cut(iterations)}",
            partial(_means, lengths, "tokens an answer"),
        ),
        (
            "Diversity",
            "Distinct n-grams of words as a share of all, over the held-out answers. Longer answers lower it too.",
            partial(_distinct, summaries),
        ),
        (
            "Training loss",
            f"Grey numbers: the iteration. {start}".strip(),
            partial(_loss, losses),
        ),
    ]
    learned: list[tuple[str, str, Paint]] = [
        (
            "Reward margin",
            f"Implicit reward, beta times nats, of the chosen candidate less that of the rejected one. {end}",
            partial(_margin, summaries),
        ),
        (
            "Reward accuracy",
            f"Share of pairs whose chosen candidate has the higher implicit reward. {end}",
            partial(_accuracy, summaries),
        ),
    ]
    measured = {name for values in summaries for name in values}
    if "train/reward_margin" in measured:  # else no iteration took more than one step
        charts += learned
    if "evaluation/pass_rate" in measured:
        said = "Held-out answers that pass all their checks: of all prompts, and of each category."
        charts.insert(1, ("Answers that pass", said, partial(_passes, summaries)))
    if sum("agreement/agreement" in values for values in summaries) > 1:  # else no policy judges
        said = (
            "Share of two answers that the policy's judge puts in the order that people put them in. Bars: the "
            "bootstrap interval. A tie counts one half. Diamonds: a judge that prefers the longer one."
        )
        names = ("agreement/agreement", "agreement/longer_agreement", "judge", "share of pairs")
        charts.insert(1, ("Its judge and people", said, partial(_beside_length, summaries, *names)))
    return [_chart(*chart) for chart in charts]


def distributions(iterations: Sequence[Iteration]) -> list[Chart]:
    """The scores and the lengths of the candidates that each iteration made its pairs from."""
    trained = iterations[1:]
    scores = [iteration["judgements"].metrics["scores"] for iteration in trained]
    lengths = [iteration["candidates"].metrics["lengths"] for iteration in trained]
    highest = max((iteration["judgements"].metrics["highest_score"] for iteration in trained), default=1)
    cut = any(iteration["candidates"].metrics["finished_share"] < 1 for iteration in trained)
    longest = max((length for row in lengths for length in row), default=1)
    step = math.ceil(longest / BINS)  # a bin holds as many whole numbers as any other, or the shares would make a comb
    lengths_edges = 0.5 + step * np.arange(math.ceil(longest / step) + 1)
    return [
        _chart(
            "Scores of candidates",
            "Bars share one height scale; the line marks the mean. Where the judge is the policy itself, a shift may "
            "be in the judge as well as in the answers.",
            partial(_histograms, scores, np.linspace(0, highest, BINS + 1), "score"),
        ),
        _chart(
            "Lengths of candidates",
            "Bars share one height scale; the line marks the mean."
            + (" A pile at the right end: cut at the limit." if cut else ""),
            partial(_histograms, lengths, lengths_edges, "tokens a candidate"),
        ),
    ]


def duels(comparisons: Sequence[Comparison]) -> Chart:
    """Every duel, by what the judge said in either order."""
    return _chart(
        "Every duel in both orders",
        "One dot a duel: how probable the judge finds it that the policy's answer is the better one. Above the "
        "diagonal the policy wins. At the top left and the bottom right, the judge changed its mind with the order.",
        partial(_duels, comparisons),
        size=(3.9, 3.6),
    )


def _chart(title: str, caption: str, paint: Paint, size: tuple[float, float] = (3.9, 2.6)) -> Chart:
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=size, layout="constrained")
        paint(figure.add_subplot())
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata=_NO_METADATA)
    encoded = base64.b64encode(buffer.getvalue()).decode("ascii")
    return Chart(title, caption, f"data:image/svg+xml;base64,{encoded}")


def _cut(iterations: Sequence[Iteration]) -> str:
    first, last = (100 * (1 - iterations[t]["held_out_candidates"].metrics["finished_share"]) for t in (0, -1))
    return f"Cut at the limit: {first:.0f} % of policy 0's answers, {last:.0f} % of policy {len(iterations) - 1}'s."


def _policies(axes: Axes, count: int, label: str = "policy") -> None:
    """All charts over iterations share one axis, so that they can be read against each other."""
    axes.set_xlim(-0.4, count - 0.6)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel(label)


def _half(axes: Axes) -> None:
    axes.set_ylim(-0.02, 1.02)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
    axes.axhline(0.5, **_REFERENCE)


def _legend(axes: Axes) -> None:
    axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 0.98), ncols=3, borderaxespad=0, handletextpad=0.5)


def _points(summaries: Summaries, name: str) -> tuple[list[int], list[float]]:
    """Where a metric was measured, and its values there."""
    found = [(t, metrics[name]) for t, metrics in enumerate(summaries) if name in metrics]
    return [t for t, _ in found], [value for _, value in found]


def _beside_length(summaries: Summaries, name: str, by_length: str, who: str, label: str, axes: Axes) -> None:
    """A share with its interval, and what the length of answers alone would give."""
    at, rates = _points(summaries, name)
    low, high = ([summaries[t].get(f"{name}_{end}", math.nan) for t in at] for end in ("low", "high"))
    reach = [np.subtract(rates, low), np.subtract(high, rates)]
    axes.errorbar(at, rates, reach, fmt="o-", color=BLUE, capsize=3, elinewidth=1.2, label=who)
    beside = [t + 0.1 for t in at]  # next to the interval, which would hide it
    axes.errorbar(beside, _points(summaries, by_length)[1], fmt="D", mfc="white", color=GREY, label="length alone")
    _half(axes)
    _policies(axes, len(summaries))
    axes.set_ylabel(label)
    _legend(axes)


def _passes(summaries: Summaries, axes: Axes) -> None:
    axes.plot(*_points(summaries, "evaluation/pass_rate"), "o-", color=BLUE, label="all")
    styles = cycle(product(("s--", "^:", "v-.", "x--"), (ORANGE, INK)))
    for category, (style, colour) in zip(pass_categories(summaries), styles, strict=False):
        axes.plot(
            *_points(summaries, f"{PASS_RATE}{category}"), style, color=colour, label=category.replace("$", r"\$")
        )
    axes.set_ylim(-0.02, 1.02)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
    _policies(axes, len(summaries))
    axes.set_ylabel("share of answers")
    _legend(axes)


def _means(samples: Sequence[Sequence[float]], label: str, axes: Axes) -> None:
    found = [(t, values) for t, values in enumerate(samples) if values]
    errors = [2 * stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan for _, values in found]
    at, means = [t for t, _ in found], [fmean(values) for _, values in found]
    axes.errorbar(at, means, errors, fmt="o-", color=BLUE, capsize=3, elinewidth=1.2)
    axes.margins(y=0.25)
    _policies(axes, len(samples))
    axes.set_ylabel(label)


def _distinct(summaries: Summaries, axes: Axes) -> None:
    axes.plot(*_points(summaries, "evaluation/distinct_1"), "o-", color=BLUE, label="one word")
    axes.plot(*_points(summaries, "evaluation/distinct_2"), "s--", color=ORANGE, label="two words")
    axes.margins(y=0.2)
    _policies(axes, len(summaries))
    axes.set_ylabel("share of distinct n-grams")
    _legend(axes)


def _margin(summaries: Summaries, axes: Axes) -> None:
    axes.plot(*_points(summaries, "train/reward_margin"), "o-", color=BLUE)
    axes.axhline(0, **_REFERENCE)
    axes.margins(y=0.25)
    _policies(axes, len(summaries), "iteration")
    axes.set_ylabel("reward margin")


def _accuracy(summaries: Summaries, axes: Axes) -> None:
    axes.plot(*_points(summaries, "train/reward_accuracy"), "o-", color=BLUE)
    _half(axes)
    _policies(axes, len(summaries), "iteration")
    axes.set_ylabel("share of pairs")


def _loss(losses: Sequence[Sequence[float]], axes: Axes) -> None:
    start = 0
    for t, curve in enumerate(losses, 1):
        at = range(start + 1, start + len(curve) + 1)
        axes.plot(at, curve, color=BLUE, marker="o" if len(curve) < 20 else "", markersize=3)
        axes.axvline(start + 0.5, color=PALE, linewidth=0.8, zorder=0)
        middle = start + 0.5 + len(curve) / 2
        axes.text(middle, 1.01, str(t), transform=axes.get_xaxis_transform(), color=GREY, ha="center", va="bottom")
        start += len(curve)
    axes.margins(y=0.15)
    axes.set_xlim(0.5, start + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("optimiser step, all iterations")
    axes.set_ylabel("loss, nats")


def _histograms(samples: Sequence[Sequence[float]], edges: np.ndarray, label: str, axes: Axes) -> None:
    """One row an iteration, the first at the top: shares in the equal bins between `edges`."""
    highest = float(edges[-1])
    shares = [np.histogram(values, edges)[0] / max(len(values), 1) for values in samples]
    tallest = max((float(row.max()) for row in shares), default=1.0) or 1.0
    for t, (values, row) in enumerate(zip(samples, shares, strict=True), 1):
        axes.bar(edges[:-1], -0.8 * row / tallest, np.diff(edges), bottom=t, align="edge", color=BLUE, linewidth=0)
        axes.plot([0, highest], [t, t], color=PALE, linewidth=0.6)
        if values:
            axes.plot([fmean(values)] * 2, [t, t - 0.85], color=ORANGE, linewidth=1.2)
    axes.set_ylim(len(samples) + 0.12, 0.1)
    axes.set_xlim(0, highest * 1.005)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(label)
    axes.set_ylabel("iteration")


def _duels(comparisons: Sequence[Comparison], axes: Axes) -> None:
    first, second = [c.preference_first for c in comparisons], [c.preference_second for c in comparisons]
    axes.axhline(0.5, color=PALE, linewidth=0.8, zorder=0)
    axes.axvline(0.5, color=PALE, linewidth=0.8, zorder=0)
    axes.plot([0, 1], [1, 0], **_REFERENCE)
    axes.plot(first, second, "o", color=BLUE, alpha=0.6, markersize=5, markeredgewidth=0)
    axes.text(0.98, 0.98, "wins in both orders", color=GREY, ha="right", va="top")
    axes.text(0.02, 0.02, "loses in both orders", color=GREY, ha="left", va="bottom")
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
    axes.set_xlabel("preference when shown first")
    axes.set_ylabel("preference when shown second")
