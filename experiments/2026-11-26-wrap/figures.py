"""Held-out perplexities of runs that went on learning from documents, and how they differ, text by text.

    python experiments/2026-11-26-wrap/figures.py outputs/wrap_none outputs/wrap_half

Prints each run's perplexity before and after, what it trained on, and each later run's perplexity over the first one's:
the bootstrap draws texts, of which all runs have the same.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path

from selfreward.intervals import bootstrap_ratio
from selfreward.store import Manifest, Metrics

SAMPLES, CONFIDENCE = 10_000, 0.95


def main(runs: Sequence[Path]) -> None:
    """One line a run, and one a comparison."""
    after = {run: metrics(run, "perplexity") for run in runs}
    for run, found in after.items():
        trained = metrics(run, "pretrained")
        learned = f"{trained['real_tokens']} real and {trained['rephrased_tokens']} rephrased tokens"
        print(f"{run.name}: {spelled(metrics(run, 'base_perplexity'))} before, {spelled(found)} after {learned}")
    (first, base), *others = after.items()
    for run, found in others:
        differences = [a - b for a, b in zip(found["nats"], base["nats"], strict=True)]
        tokens: list[float] = found["tokens_by_text"]
        around = bootstrap_ratio(differences, tokens, SAMPLES, CONFIDENCE, 0)
        assert around, "one document alone says nothing of others"
        ratio = math.exp(math.fsum(differences) / math.fsum(tokens))
        print(f"{run.name} over {first.name}: {ratio:.4f} [{math.exp(around.low):.4f}, {math.exp(around.high):.4f}]")


def metrics(run: Path, name: str) -> Metrics:
    """Of an artifact of the run's beginning."""
    manifest = Manifest.read(run / "iterations" / "0" / name)
    assert manifest, f"{run} has no {name}"
    return manifest.metrics


def spelled(found: Metrics) -> str:
    """A perplexity with its interval."""
    return f"{found['perplexity']:.3f} [{found['perplexity_low']:.2f}, {found['perplexity_high']:.2f}]"


if __name__ == "__main__":
    main([Path(name) for name in sys.argv[1:]])
