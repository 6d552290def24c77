"""What a stage made, in a few words for the console."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from selfreward.store import Manifest
from selfreward.tracking.metrics import outside_judge
from selfreward.tracking.numbers import decimal, percent


def describe(manifest: Manifest) -> str:
    """A line without its end."""
    return DESCRIPTIONS[manifest.stage](manifest)


def judged_by(manifest: Manifest) -> str:
    """Who judged, where it was not a policy."""
    model = outside_judge(manifest)
    return f", judged by {model}" if model else ""


def _prompts(manifest: Manifest) -> str:
    return f"{manifest.metrics['prompts']} prompts"


def _proposals(manifest: Manifest) -> str:
    return f"{manifest.metrics['proposals']} proposals"


def _new_prompts(manifest: Manifest) -> str:
    metrics = manifest.metrics
    return f"{metrics['prompts']} of {metrics['wanted']} new prompts, from {metrics['looked_at']} proposals"


def _document_prompts(manifest: Manifest) -> str:
    return f"{manifest.metrics['prompts']} of {manifest.metrics['pool']} questions"


def _chunks(manifest: Manifest) -> str:
    metrics = manifest.metrics
    return f"{metrics['chunks']} chunks of {metrics['documents']} documents, {metrics['held_out']} of these held out"


def _rephrasings(manifest: Manifest) -> str:
    return f"{manifest.metrics['used']} of {manifest.metrics['rephrasings']} used"


def _perplexity(manifest: Manifest) -> str:
    metrics = manifest.metrics
    low, high = (decimal(metrics[f"perplexity_{end}"]) for end in ("low", "high"))
    return f"{decimal(metrics['perplexity'])} [{low}, {high}] on {metrics['texts']} texts"


def _gate(manifest: Manifest) -> str:
    return f"{manifest.metrics['prompts']} of {manifest.metrics['came']} prompts pass"


def _people(manifest: Manifest) -> str:
    left_out = sum(manifest.metrics["left_out"].values())
    return f"{manifest.rows} of people's {manifest.stage}" + (f", {left_out} left out" if left_out else "")


def _agreements(manifest: Manifest) -> str:
    metrics = manifest.metrics
    return f"{percent(metrics.get('agreement'))} of {metrics['pairs']} pairs as people say"


def _candidates(manifest: Manifest) -> str:
    return f"{manifest.metrics['candidates']} of {manifest.metrics['mean_tokens']:.0f} tokens each"


def _judgements(manifest: Manifest) -> str:
    metrics, mean = manifest.metrics, decimal(manifest.metrics["mean_score"])
    return f"{metrics['scored']} of {metrics['judgements']} scored, mean {mean}{judged_by(manifest)}"


def _pairs(manifest: Manifest) -> str:
    metrics = manifest.metrics
    return f"{metrics['pairs']} pairs of {metrics['prompts']} prompts, {metrics['ties']} ties"


def _references(manifest: Manifest) -> str:
    metrics = manifest.metrics
    return f"{metrics['pairs']} pairs, {metrics['recorded_difference']:.3f} nats a token off what sampling noted"


def _parity(manifest: Manifest) -> str:
    off, most = manifest.metrics["difference"], manifest.metrics["largest_difference"]
    return f"{off:.2g} nats a token off training, {most:.2g} at most"


def _evaluations(manifest: Manifest) -> str:
    rate = manifest.metrics.get("win_rate")
    return f"{manifest.metrics['answers']} answers" + (f", win rate {percent(rate)}" if rate is not None else "")


def _policies(manifest: Manifest) -> str:
    metrics = manifest.metrics
    if "steps" not in metrics:
        return "the base model"
    taken = f"{metrics['pairs']} pairs" if "pairs" in metrics else f"{metrics['examples']} examples"
    return f"{metrics['steps']} steps on {taken}"


DESCRIPTIONS: Mapping[str, Callable[[Manifest], str]] = {
    "agreements": _agreements,
    "candidates": _candidates,
    "chunks": _chunks,
    "demonstrations": _people,
    "document_prompts": _document_prompts,
    "evaluations": _evaluations,
    "gate": _gate,
    "graders": _policies,
    "imitation": _perplexity,
    "judgements": _judgements,
    "new_prompts": _new_prompts,
    "pairs": _pairs,
    "parity": _parity,
    "perplexity": _perplexity,
    "policies": _policies,
    "prompts": _prompts,
    "proposals": _proposals,
    "ratings": _people,
    "references": _references,
    "rephrasings": _rephrasings,
}
"""By the name of the stage."""
