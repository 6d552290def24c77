"""New prompts: the proposals that are kept, counted by why the others were not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from selfreward.config import GenerationConfig
from selfreward.generation import WAYS
from selfreward.generation.filters import PromptFilter, greatest_rouge_l
from selfreward.records import Prompt, Proposal, prompt_id
from selfreward.stages.leaks import IS_EVALUATED, LeaksIdentity, evaluated_texts, leaks_among
from selfreward.stages.tools import Tools
from selfreward.store import Artifact, Identity, Metrics, Stage, Work

SETTINGS = ("kind", "most_rouge", "resemblance", "least_words", "most_words", "keywords", "language")
"""What of the configuration it depends on which proposals are kept."""

EVALUATION = "evaluation_"

_SHOWN = 5  # of what was left out for one reason, for people to look at


@dataclass(frozen=True)
class NewPromptsIdentity(Identity):
    """What is kept, and how many at most."""

    generation: Mapping[str, Any]
    leaks: LeaksIdentity
    wanted: int


def keep_new(config: NewPromptsIdentity, parents: Mapping[str, Artifact], work: Work, tools: Tools) -> Metrics:
    """Those of `parents["proposals"]` that no other prompt says already, after `parents["kept"]`, what earlier rounds
    of the iteration kept, where there were any. Its counts go on.

    Other parents are prompts that are there, and, where their names begin with `evaluation_`, what policies are
    evaluated on: a proposal that holds such a text is left out.
    """
    cfg = GenerationConfig(**config.generation)
    before = parents.get("kept")
    kept = before.read(Prompt) if before else []
    seeds = [prompt.prompt for prompt in parents["seeds"].read(Prompt)]
    evaluations = {name: evaluated_texts(parent) for name, parent in parents.items() if name.startswith(EVALUATION)}
    known = [parent for name, parent in parents.items() if name != "proposals" and name not in evaluations]
    others = [prompt.prompt for parent in known for prompt in parent.read(Prompt)]
    others += [text for texts in evaluations.values() for text in texts]
    proposals = parents["proposals"].read(Proposal)
    leaks = leaks_among({str(n): proposal.text for n, proposal in enumerate(proposals)}, evaluations, config.leaks)
    filters = PromptFilter(cfg, others, WAYS[cfg.kind].echo)
    reasons: Counter[str] = Counter(before.metrics["left_out"] if before else {})
    shown: dict[str, list[str]] = {reason: list(texts) for reason, texts in _earlier(before).items()}
    looked_at = before.metrics["looked_at"] if before else 0
    for place, proposal in enumerate(proposals):
        if len(kept) == config.wanted:
            break
        looked_at += 1
        reason = (
            IS_EVALUATED
            if str(place) in leaks
            else filters.reason_against(proposal.text, proposal.shown, finished=proposal.finished)
        )
        if reason is None:
            kept.append(Prompt(prompt_id(proposal.text), proposal.text, cfg.kind))
            continue
        reasons[reason] += 1
        if len(shown.setdefault(reason, [])) < _SHOWN:
            shown[reason].append(proposal.text)
    work.shards([kept], list, Prompt)
    nearest = [greatest_rouge_l(prompt.prompt, seeds) for prompt in kept]
    return {
        "prompts": len(kept),
        "wanted": config.wanted,
        "looked_at": looked_at,
        "rounds": (before.metrics["rounds"] if before else 0) + 1,
        "left_out": dict(reasons.most_common()),
        "examples_left_out": shown,
        "nearest_seed": nearest,
        "mean_nearest_seed": fmean(nearest) if nearest else None,
    }


def _earlier(before: Artifact | None) -> Mapping[str, list[str]]:
    return before.metrics["examples_left_out"] if before else {}


NEW_PROMPTS = Stage("new_prompts", 6, keep_new)
