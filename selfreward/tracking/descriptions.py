"""What a stage made, in a few words for the console."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from selfreward.store import Manifest
from selfreward.tracking.metrics import separate_judge
from selfreward.tracking.numbers import decimal, percent


def describe(manifest: Manifest) -> str:
    """A line without its end."""
    return DESCRIPTIONS[manifest.stage](manifest)


def judged_by(manifest: Manifest) -> str:
    """Who judged, where it was not a policy."""
    model = separate_judge(manifest)
    return f", judged by {model}" if model else ""


def _candidates(manifest: Manifest) -> str:
    metrics = manifest.metrics
    too_long = f", {metrics['prompts_too_long']} prompts too long" if metrics["prompts_too_long"] else ""
    return f"{metrics['candidates']} of {metrics['mean_tokens']:.0f} tokens each{too_long}"


def _perplexity(manifest: Manifest) -> str:
    metrics = manifest.metrics
    if metrics["perplexity_low"] is None:
        return f"{decimal(metrics['perplexity'])} on one text"
    low, high = (decimal(metrics[f"perplexity_{end}"]) for end in ("low", "high"))
    return f"{decimal(metrics['perplexity'])} [{low}, {high}] on {metrics['texts']} texts"


def _people(manifest: Manifest) -> str:
    left_out = sum(manifest.metrics["left_out"].values())
    return f"{manifest.rows} of people's {manifest.stage}" + (f", {left_out} left out" if left_out else "")


def _agreements(manifest: Manifest) -> str:
    metrics = manifest.metrics
    return f"{percent(metrics.get('agreement'))} of {metrics['pairs']} pairs as people say"


def _judgements(manifest: Manifest) -> str:
    metrics, mean = manifest.metrics, decimal(manifest.metrics["mean_score"])
    return f"{metrics['scored']} of {metrics['judgements']} scored, mean {mean}{judged_by(manifest)}"


def _evaluations(manifest: Manifest) -> str:
    rate = manifest.metrics.get("win_rate")
    return f"{manifest.metrics['answers']} answers" + (f", win rate {percent(rate)}" if rate is not None else "")


def _policies(manifest: Manifest) -> str:
    metrics = manifest.metrics
    if "steps" not in metrics:
        return "the base model"
    taken = f"{metrics['pairs']} pairs" if "pairs" in metrics else f"{metrics['examples']} examples"
    return f"{metrics['steps']} {'step' if metrics['steps'] == 1 else 'steps'} on {taken}"


def _words(template: str) -> Callable[[Manifest], str]:
    """Words with places for metrics."""
    return lambda manifest: template.format_map(manifest.metrics)


DESCRIPTIONS: Mapping[str, Callable[[Manifest], str]] = {
    "agreements": _agreements,
    "candidates": _candidates,
    "chunks": _words("{chunks} chunks of {documents} documents, {held_out} of these held out"),
    "demonstrations": _people,
    "document_prompts": _words("{prompts} of {pool} questions"),
    "embeddings": _words("{texts} prompts embedded"),
    "evaluations": _evaluations,
    "gate": _words("{prompts} of {came} prompts pass"),
    "independent_judges": _policies,
    "imitation": _perplexity,
    "judgements": _judgements,
    "leaks": _words("{leaks} of {prompts} prompts are evaluated on"),
    "new_prompts": _words("{prompts} of {wanted} new prompts, from {looked_at} proposals"),
    "pairs": _words("{pairs} pairs of {prompts} prompts, {ties} ties"),
    "parity": _words("{difference:.2g} nats a token off training, rounding {rounding:.2g}"),
    "perplexity": _perplexity,
    "policies": _policies,
    "prompts": _words("{prompts} prompts"),
    "proposals": _words("{proposals} proposals"),
    "ratings": _people,
    "references": _words("{pairs} pairs, {recorded_difference:.3f} nats a token off the policy that sampled"),
    "rephrasings": _words("{used} of {rephrasings} used"),
}
"""By the name of the stage."""
