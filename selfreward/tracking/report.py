"""The report of a run: one HTML file that needs nothing else, made from the manifests and records of its artifacts."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from selfreward.records import Comparison
from selfreward.store.manifest import write_atomically
from selfreward.tracking.data_card import data_cards
from selfreward.tracking.metrics import (
    PASS_RATE,
    Iteration,
    conclusion,
    full_ids,
    pass_categories,
    pass_metrics,
    separate_judge,
    summary,
)
from selfreward.tracking.numbers import NOT_MEASURED, percent
from selfreward.tracking.shown_prompts import shown_prompts

ARROW = "\N{RIGHTWARDS ARROW}"


@dataclass(frozen=True)
class Column:
    """A column of the table of iterations: its heading, the metrics it shows, how, and the one that says whether they
    show anything."""

    heading: str
    names: tuple[str, ...]
    layout: str
    shown: str = ""
    scale: float = 1.0

    def cell(self, metrics: Mapping[str, float]) -> str:
        """The text for one iteration."""
        if any(name not in metrics for name in self.names):
            return NOT_MEASURED
        star = " *" if metrics.get(self.shown) else ""
        return _spaced(self.layout.format(*(self.scale * metrics[name] for name in self.names)) + star)


_DRIFTING = {"mean_tokens": "mean length", "distinct_1": "distinct-1", "distinct_2": "distinct-2"}
_MOST_DRIFT = 0.2

CHECKED = "Checked by code"
COLUMNS = {
    "Preference pairs": (
        Column("pairs", ("pairs/pairs",), "{:,.0f}"),
        Column("yield", ("pairs/yield",), "{:.0%}"),
        Column("ties", ("pairs/tie_rate",), "{:.0%}"),
        Column("parse failures", ("judgements/parse_failure_rate",), "{:.1%}"),
        Column("judge score", ("judgements/mean_score",), "{:.2f}"),
        Column(
            "chosen\N{NO-BREAK SPACE}/ rejected tokens",
            ("pairs/chosen_tokens", "pairs/rejected_tokens"),
            "{:.0f} / {:.0f}",
        ),
    ),
    "Training": (
        Column("loss, first to last", ("train/loss_first", "train/loss_last"), f"{{:.3f}} {ARROW} {{:.3f}}"),
        Column("reward margin", ("train/reward_margin",), "{:+.3f}"),
        Column("reward accuracy", ("train/reward_accuracy",), "{:.0%}"),
        Column("engine off by", ("parity/difference",), "{:.2g}"),
    ),
    "Held-out prompts": (
        Column("score", ("evaluation/mean_score",), "{:.2f}"),
        Column("scored", ("evaluation/scored", "evaluation/answers"), "{:.0f} of {:.0f}"),
        Column("win rate", ("evaluation/win_rate",), "{:.0%}", "evaluation/win_rate_shown"),
        Column("interval", ("evaluation/win_rate_low", "evaluation/win_rate_high"), "{:.0%} to {:.0%}"),
        Column("at equal length", ("evaluation/controlled_win_rate",), "{:.0%}"),
        Column(
            "interval",
            ("evaluation/controlled_win_rate_low", "evaluation/controlled_win_rate_high"),
            "{:.0%} to {:.0%}",
        ),
        Column("mean tokens", ("evaluation/mean_tokens",), "{:.0f}"),
        Column("distinct\N{NON-BREAKING HYPHEN}2", ("evaluation/distinct_2",), "{:.2f}"),
    ),
    "Its judge and people": (
        Column("pairs", ("agreement/pairs",), "{:,.0f}"),
        Column("agreement", ("agreement/agreement",), "{:.1%}"),
        Column("interval", ("agreement/agreement_low", "agreement/agreement_high"), "{:.0%} to {:.0%}"),
        Column("by length", ("agreement/longer_agreement",), "{:.1%}"),
        Column("like length", ("agreement/agreement_alike",), "{:.1%}"),
        Column("interval", ("agreement/agreement_alike_low", "agreement/agreement_alike_high"), "{:.0%} to {:.0%}"),
    ),
    "Surprise (perplexity)": (
        Column("documents", ("perplexity/perplexity",), "{:.2f}"),
        Column("before", ("base_perplexity/perplexity",), "{:.2f}"),
        Column("people's answers", ("imitation/perplexity",), "{:.2f}"),
        Column("interval", ("imitation/perplexity_low", "imitation/perplexity_high"), "{:.2f} to {:.2f}"),
        Column("before", ("base_imitation/perplexity",), "{:.2f}"),
    ),
    CHECKED: (
        Column("pass rate", ("evaluation/pass_rate",), "{:.0%}"),
        Column("points gained", ("evaluation/pass_gain",), "{:+.0f}", "evaluation/pass_gain_shown", scale=100),
        Column("interval", ("evaluation/pass_gain_low", "evaluation/pass_gain_high"), "{:+.0f} to {:+.0f}", scale=100),
    ),
    "Cost": (
        Column("seconds", ("cost/seconds",), "{:,.0f}"),
        Column("tokens", ("cost/tokens",), "{:,.0f}"),
        Column("peak GiB", ("cost/peak_memory_gib",), "{:.1f}"),
    ),
}


def write_report(
    path: Path, title: str, settings: Mapping[str, Any], iterations: Sequence[Iteration], examples: int
) -> None:
    """Write the report to `path`. The same inputs give the same bytes.

    It shows the first `examples` prompts of each iteration, and as many duels of the last policy.
    """
    from selfreward.tracking import charts  # imports matplotlib, which takes a second

    evaluation = iterations[-1]["evaluation"]
    comparisons = evaluation.read(Comparison)  # none where policy 0 is alone
    rows = [summary(iteration) for iteration in iterations]
    judged = iterations[-1].get("judgements", iterations[-1]["held_out_judgements"])
    text = (
        _environment()
        .get_template("report.html.jinja")
        .render(
            title=title,
            passes=passes(iterations),
            outcome=outcome(iterations),
            drift=drift(iterations),
            agreements=agreements(iterations[0]),
            last=len(iterations) - 1,
            beginning=beginning(iterations[0]),
            evaluation=evaluation,
            duels_judge=separate_judge(evaluation.manifest)
            or separate_judge(iterations[-1]["held_out_judgements"].manifest),
            candidates_judge=separate_judge(judged.manifest),
            asking=bool(judged.manifest.config["texts"]),
            with_code=judged.manifest.config["judge"]["kind"] == "ensemble",
            columns=measured(rows),
            rows=rows,
            charts=[*charts.over_iterations(iterations), *charts.distributions(iterations)] if iterations[1:] else [],
            trained=iterations[1:],
            examples=[shown_prompts(iteration, examples) for iteration in iterations[1:]],
            comparisons=comparisons,
            duels=[(duel, duel_outcome(duel, f"policy {len(iterations) - 1}")) for duel in comparisons[:examples]],
            cards=data_cards(iterations, examples),
            duel_chart=charts.duels(comparisons) if comparisons else None,
            settings=list(flatten(settings)),
            artifacts=[
                (t, name, full_id, iteration[name].manifest)
                for t, iteration in enumerate(iterations)
                for name, full_id in full_ids(iteration).items()
            ],
        )
    )
    write_atomically(path, text.encode())


def measured(rows: Sequence[Mapping[str, float]]) -> dict[str, tuple[Column, ...]]:
    """The groups of columns of which anything was measured."""
    found = {name for row in rows for name in row}
    apart = [Column(category, (f"{PASS_RATE}{category}",), "{:.0%}") for category in pass_categories(rows)]
    groups = COLUMNS | {CHECKED: (*COLUMNS[CHECKED], *apart)}
    return {group: cs for group, cs in groups.items() if any(name in found for c in cs for name in c.names)}


def beginning(first: Iteration) -> str:
    """What policy 0 is, by the artifacts of iteration 0."""
    learned = ["has learned from documents"] if "pretrained" in first else []
    learned += ["is tuned on what people wrote"] if {"demonstrations", "ratings"} & first.keys() else []
    return " and ".join(learned) or "is the base model"


def outcome(iterations: Sequence[Iteration]) -> str:
    """One sentence: whether the last policy is better than policy 0, as far as anything was shown."""
    metrics = iterations[-1]["evaluation"].metrics
    if "win_rate" not in metrics:
        return "There is policy 0 alone: none was compared with it."
    too_long = metrics["prompts_too_long"]
    digits = 1 if metrics["answers"] >= 100 else 0  # fewer duels don't carry a decimal
    rate, low, high = (f"{metrics[name]:.{digits}%}" for name in ("win_rate", "win_rate_low", "win_rate_high"))
    return _spaced(
        f"Policy {len(iterations) - 1} wins {rate} of {metrics['answers']} duels against policy 0 "
        f"({100 * metrics['confidence']:.3g}% interval {low} to {high}): {conclusion(metrics)}."
        + (f" {too_long} more held-out prompts were longer than sampling.max_prompt_tokens." if too_long else "")
    )


def passes(iterations: Sequence[Iteration]) -> str:
    """One sentence: whether the last policy's answers pass their checks more often; empty where none has any."""
    metrics = pass_metrics(iterations[-1])
    if "pass_gain" not in metrics:
        return ""
    gain, low, high = (f"{100 * metrics[name]:+.0f}" for name in ("pass_gain", "pass_gain_low", "pass_gain_high"))
    confidence = iterations[-1]["evaluation"].metrics["confidence"]
    return _spaced(
        f"{metrics['pass_rate']:.0%} of policy {len(iterations) - 1}'s answers to held-out prompts pass all their "
        f"checks, {gain} points on policy 0 ({100 * confidence:.3g}% interval {low} to {high})"
        + ("." if metrics["pass_gain_shown"] else ": nothing was shown.")
    )


def drift(iterations: Sequence[Iteration]) -> str:
    """What of the last policy's held-out answers is more than a fifth off policy 0's; empty where nothing is."""
    before, now = (iterations[place]["evaluation"].metrics for place in (0, -1))
    ratios = {said: now[name] / before[name] for name, said in _DRIFTING.items() if before.get(name) and name in now}
    off = [f"{ratio:.0%} of policy 0's {said}" for said, ratio in ratios.items() if abs(ratio - 1) > _MOST_DRIFT]
    return _spaced(f"Its answers have {', '.join(off)}: more than a fifth off.") if off else ""


def agreements(first: Iteration) -> list[str]:
    """How often judges that are no policy's put two answers as people did: a sentence each."""
    said = {
        "base_agreement": "The judge of the base model",
        # In duels it is asked otherwise.
        "independent_judge_agreement": "Scoring answers one by one, the independent judge",
    }
    return [
        _spaced(
            f"{said[name]} puts {metrics['agreement']:.0%} of {metrics['pairs']} pairs of answers as the people did "
            f"who rated them{_between(metrics)}, a tie counting one half; preferring the longer one does "
            f"{metrics['longer_agreement']:.0%}."
            + (f" {metrics['unscored']} of {metrics['answers']} answers have no score." if metrics["unscored"] else "")
        )
        for name in said
        if name in first and "agreement" in (metrics := first[name].metrics)
    ]


def _between(metrics: Mapping[str, Any]) -> str:
    low, high = metrics["agreement_low"], metrics["agreement_high"]
    return "" if low is None else f" ({low:.0%} to {high:.0%})"


def duel_outcome(duel: Comparison, policy: str) -> str:
    """Who wins, by the preference averaged over both orders; equal answers tie."""
    return {0.5: "tie", 1.0: f"{policy} wins", 0.0: "policy 0 wins"}[duel.win]


def flatten(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested settings as dotted keys, each with its value as one would write it on the command line."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
            yield f"{prefix}{key}", text


def _spaced(text: str) -> str:
    """With a space before each percent sign, at which no line breaks."""
    return re.sub(" ?%", "\N{NO-BREAK SPACE}%", text)


def _environment() -> Environment:
    environment = Environment(
        autoescape=True,  # prompts, candidates and judges' replies may hold anything
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["percent"] = lambda share, digits=0: _spaced(percent(share, digits))
    return environment
