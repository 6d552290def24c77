"""The names of metrics: the one place that turns manifests into what dashboards, tables and reports show."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean
from typing import Any

from selfreward.store import Artifact, Cost, Manifest

Iteration = Mapping[str, Artifact]
"""An iteration's artifacts by the names of the loop: prompts, candidates, judgements, pairs, policy, parity, and, for
the evaluation, held_out_candidates, held_out_judgements, evaluation. Iteration 0 has only policy, parity and those."""

GIB = 1 << 30

_NAMES = {
    "candidates": ("candidates", "mean_tokens", "finished_share", "distinct_share", "prompts_too_long"),
    "judgements": ("mean_score", "parse_failure_rate", "score_mass"),
    "pairs": (
        "pairs",
        "yield",
        "tie_rate",
        "score_margin",
        "chosen_tokens",
        "rejected_tokens",
        "longer_chosen_share",
    ),
    "parity": ("difference", "largest_difference", "adapter_share"),
    "evaluation": (
        "mean_score",
        "parse_failure_rate",
        "mean_tokens",
        "distinct_1",
        "distinct_2",
        "win_rate",
        "win_rate_low",
        "win_rate_high",
        "preference",
        "order_agreement",
        "length_win_rate",
    ),
}


def summary(iteration: Iteration) -> dict[str, float]:
    """An iteration's metrics under `<part>/<name>`; what was not measured is left out."""
    found: dict[str, float] = {}
    for part, names in _NAMES.items():
        if part in iteration:
            metrics = iteration[part].metrics
            found |= {f"{part}/{name}": metrics[name] for name in names if metrics.get(name) is not None}
    found |= {f"evaluation/{name}": value for name, value in pass_metrics(iteration).items()}
    if "pairs" in iteration:
        found |= {f"train/{name}": value for name, value in _training(iteration["policy"].metrics).items()}
    total = cost(iteration)
    found |= {"cost/seconds": total.seconds, "cost/tokens": total.tokens}
    if total.peak_memory_bytes:
        found["cost/peak_memory_gib"] = total.peak_memory_bytes / GIB
    return found | memory(iteration)


def pass_metrics(iteration: Iteration) -> dict[str, float]:
    """Shares of held-out answers that pass their checks, and gains on policy 0; empty where none has any."""
    metrics = iteration["evaluation"].metrics if "evaluation" in iteration else {}
    return {name: value for name, value in metrics.items() if name.startswith("pass_")}


def memory(iteration: Iteration) -> dict[str, float]:
    """GiB at each part's peak under `memory/<part>_gib`, and as planned under `memory/<part>_planned_gib`."""
    found: dict[str, float] = {}
    for part, artifact in iteration.items():
        spent = artifact.manifest.cost
        if spent.planned_memory_bytes:
            found[f"memory/{part}_gib"] = spent.peak_memory_bytes / GIB
            found[f"memory/{part}_planned_gib"] = spent.planned_memory_bytes / GIB
    return found


def cost(iteration: Iteration) -> Cost:
    """What the iteration's artifacts took to make, whenever they were made."""
    return sum((artifact.manifest.cost for artifact in iteration.values()), Cost())


def verdict(evaluation: Mapping[str, Any]) -> str:
    """What an evaluation's metrics show of a policy against policy 0: better, worse, or nothing."""
    if not evaluation["win_rate_shown"]:
        return "nothing was shown"
    return "better than policy 0" if evaluation["win_rate"] > 0.5 else "worse than policy 0"


def outside_judge(judged: Manifest) -> str | None:
    """The model of the outside engine that judged; None where a policy did, or a judge that asks no model."""
    engine = judged.config["engine"]
    return engine["model"] or engine["tokenizer"] if judged.config["texts"] else None


def artifact_names(iteration: Iteration) -> dict[str, Any]:
    """Each artifact's `<stage>/<id>`."""
    return {name: artifact.reference for name, artifact in iteration.items()}


def _training(metrics: Mapping[str, Any]) -> dict[str, float]:
    losses, margins, accuracies = metrics["loss"], metrics["reward_margin"], metrics["reward_accuracy"]
    last = max(len(losses) // 4, 1)  # the last quarter of the steps: one step alone is noise
    return {
        "loss_first": losses[0],
        "loss_last": fmean(losses[-last:]),
        "reward_margin": fmean(margins[-last:]),
        "reward_accuracy": fmean(accuracies[-last:]),
        "steps": metrics["steps"],
    }
