"""The names of metrics: the one place that turns manifests into what dashboards, tables and reports show."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from selfreward.cap import GIB
from selfreward.store import Artifact, Cost, Manifest

Iteration = Mapping[str, Artifact]
"""An iteration's artifacts by the names of the loop: source, prompts, embeddings, candidates, judgements, pairs,
references, policy, parity, of what a policy wrote each round's proposals_N and kept_N; for the evaluation
held_out_candidates, held_out_judgements, evaluation, and, where people's answers are kept for it, agreement and
imitation. Iteration 0 has policy, parity and those of the evaluation; what policy 0 comes from (chunks, rephrasings,
pretrained, demonstrations, ratings), and before it base_parity, base_perplexity, base_agreement, base_imitation, after
documents perplexity; what is held against evaluations (leaks); what is measured by (people, demonstrations_held_out,
independent_judge, independent_judge_agreement, and independent_judge_prompts and independent_judge_ratings that it
learns from); and of further engines judge_parity and evaluation_parity."""

PASS_RATE = "evaluation/pass_rate/"
"""What the pass rates of categories begin with."""

NAMES = {
    "prompts": ("prompts", "mean_words", "distinct_2", "self_bleu"),
    "embeddings": ("mean_distance", "cluster_evenness"),
    "source": ("mean_nearest_seed", "looked_at"),
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
        "chosen_finished_share",
        "rejected_finished_share",
    ),
    **dict.fromkeys(
        ("parity", "judge_parity", "evaluation_parity"),
        ("difference", "largest_difference", "rounding", "adapter_share"),
    ),
    "evaluation": (
        "answers",
        "prompts_too_long",
        "scored",
        "mean_score",
        "parse_failure_rate",
        "mean_tokens",
        "distinct_1",
        "distinct_2",
        "win_rate",
        "win_rate_low",
        "win_rate_high",
        "win_rate_shown",
        "preference",
        "choice_mass",
        "order_agreement",
        "length_win_rate",
        "controlled_win_rate",
        "controlled_win_rate_low",
        "controlled_win_rate_high",
    ),
    "rephrasings": ("used", "numbers_kept", "names_kept"),
    "perplexity": ("perplexity", "perplexity_low", "perplexity_high"),
    "base_perplexity": ("perplexity", "perplexity_low", "perplexity_high"),
    "imitation": ("perplexity", "perplexity_low", "perplexity_high"),
    "base_imitation": ("perplexity", "perplexity_low", "perplexity_high"),
    "agreement": (
        "pairs",
        "agreement",
        "agreement_low",
        "agreement_high",
        "agreement_ties",
        "longer_agreement",
        "pairs_alike",
        "agreement_alike",
        "agreement_alike_low",
        "agreement_alike_high",
        "agreement_ties_alike",
        "longer_agreement_alike",
        "unscored",
    ),
}
"""Of each part of an iteration the metrics that are shown; docs/metrics.md says what they mean."""

_LEARNED = ("reward_margin", "reward_accuracy")
"""What DPO measures of a step's pairs beside the loss, before the step is taken."""


def summary(iteration: Iteration) -> dict[str, float]:
    """An iteration's metrics under `<part>/<name>`; what was not measured is left out, and what was shown is a 1."""
    found: dict[str, float] = {}
    for part, names in NAMES.items():
        if part in iteration:
            metrics = iteration[part].metrics
            found |= {f"{part}/{name}": metrics[name] for name in names if metrics.get(name) is not None}
    found |= {f"evaluation/{name}": value for name, value in pass_metrics(iteration).items()}
    found = {name: int(value) if isinstance(value, bool) else value for name, value in found.items()}
    if "pairs" in iteration:
        found |= {f"train/{name}": value for name, value in _training(iteration["policy"].metrics).items()}
    elif "loss" in iteration["policy"].metrics:
        found |= {f"tuning/{name}": value for name, value in _losses(iteration["policy"].metrics).items()}
    total = cost(iteration)
    found |= {"cost/seconds": total.seconds, "cost/tokens": total.tokens}
    if total.peak_memory_bytes:
        found["cost/peak_memory_gib"] = total.peak_memory_bytes / GIB
    return found | memory(iteration)


def pass_metrics(iteration: Iteration) -> dict[str, float]:
    """Shares of held-out answers that pass their checks, and gains on policy 0; empty where none has checks."""
    metrics = iteration["evaluation"].metrics if "evaluation" in iteration else {}
    return {name: value for name, value in metrics.items() if name.startswith("pass_")}


def pass_categories(summaries: Sequence[Mapping[str, float]]) -> list[str]:
    """The categories of which summaries have a pass rate."""
    names = dict.fromkeys(name for values in summaries for name in values if name.startswith(PASS_RATE))
    return [name.removeprefix(PASS_RATE) for name in names]


def objective(iteration: Iteration) -> float:
    """What a sweep looks for the most of: the win rate over policy 0; of policy 0 alone, how far its judge agrees with
    people; no number where neither was measured."""
    for name, metric in (("evaluation", "win_rate"), ("agreement", "agreement")):
        if name in iteration and metric in iteration[name].metrics:
            return iteration[name].metrics[metric]
    return math.nan


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
    """What the iteration's artifacts took to make, whenever they were made; one under two names was made once."""
    made = {artifact.full_id: artifact.manifest.cost for artifact in iteration.values()}
    return sum(made.values(), Cost())


def conclusion(evaluation: Mapping[str, Any]) -> str:
    """What an evaluation's metrics show of a policy against policy 0: better, worse, or nothing."""
    if not evaluation["win_rate_shown"]:
        return "nothing was shown"
    return "better than policy 0" if evaluation["win_rate"] > 0.5 else "worse than policy 0"


def separate_judge(judged: Manifest) -> str | None:
    """What judged where no policy did: an outside engine's model, or a judge tuned apart; None for a judge that asks no
    model."""
    if not judged.config["texts"]:
        return None
    if any(judged.parents.get(name, "").startswith("independent_judges/") for name in ("policy", "judge")):
        return "an independent judge"
    return judged.config["engine"]["model"]


def full_ids(iteration: Iteration) -> dict[str, Any]:
    """Each artifact's `<stage>/<id>`."""
    return {name: artifact.full_id for name, artifact in iteration.items()}


def _training(metrics: Mapping[str, Any]) -> dict[str, float]:
    return _losses(metrics) | {name: _last(metrics[name]) for name in _LEARNED if len(metrics[name]) > 1}


def _losses(metrics: Mapping[str, Any]) -> dict[str, float]:
    losses = metrics["loss"]
    last = {"loss_last": _last(losses)} if len(losses) > 1 else {}
    return {"loss_first": losses[0], **last, "steps": metrics["steps"]}


def _last(values: Sequence[float]) -> float:
    """The mean over the last quarter of the steps, two at least, for one alone is noise; never the first, which is
    measured before anything was learned."""
    return fmean(values[-min(max(len(values) // 4, 2), len(values) - 1) :])
