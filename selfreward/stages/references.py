"""Reference log-probabilities: what the policy that training compares with says of each pair, computed once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean

from selfreward.records import PreferencePair, ReferenceLogprobs
from selfreward.stages.tools import Tools
from selfreward.store import Artifact, Identity, Metrics, Stage, Work


@dataclass(frozen=True)
class ReferencesIdentity(Identity):
    """Nothing but the pairs and the policy decides."""


def reference(config: ReferencesIdentity, parents: Mapping[str, Artifact], work: Work, tools: Tools) -> Metrics:
    """Log-probabilities of `parents["pairs"]` under `parents["policy"]`."""
    # imports torch and trl, which a finished run does without
    from selfreward.training.reference import compute_references, difference, recorded_references

    pairs = parents["pairs"].read(PreferencePair)
    work.plan(len(pairs) / work.group.size, "pairs")
    work.planned_memory = sum(tools.plan.costs.scoring(tools.plan.scoring_tokens).values())
    with tools.models.policy(tools.adapter(parents["policy"])) as model:
        references = compute_references(
            model, tools.models.chat.tokenizer, pairs, tools.speed, tools.plan.scoring_tokens, work.advance, work.group
        )
    work.shards([references], list, ReferenceLogprobs)
    recorded = recorded_references(pairs)
    return {
        "pairs": len(pairs),
        "recorded_difference": fmean(map(difference, references, recorded)),
    }


REFERENCES = Stage("references", 1, reference)
