"""The first prompts of an iteration with all that came of them, for people to read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, islice

from selfreward.records import Candidate, Judgement, PreferencePair
from selfreward.tracking.metrics import Iteration


@dataclass(frozen=True)
class ShownCandidate:
    """A candidate, its judgement, and its role in the pair: chosen, rejected, or none."""

    candidate: Candidate
    judgement: Judgement
    role: str


@dataclass(frozen=True)
class ShownPrompt:
    """A prompt with all its candidates, and what came of them."""

    prompt: str
    candidates: list[ShownCandidate]
    outcome: str


def shown_prompts(iteration: Iteration, count: int) -> list[ShownPrompt]:
    """The first prompts of an iteration with all their candidates, the best score first."""
    judgements = {(j.prompt_id, j.index): j for j in iteration["judgements"].read(Judgement)}
    pairs = {pair.prompt_id: pair for pair in iteration["pairs"].read(PreferencePair)}
    by_prompt = groupby(iteration["candidates"].read(Candidate), key=lambda candidate: candidate.prompt_id)
    margin = iteration["pairs"].manifest.config["pairs"]["margin"]
    return [
        _shown([(c, judgements[prompt_id, c.index]) for c in group], pairs.get(prompt_id), margin)
        for prompt_id, group in islice(by_prompt, count)
    ]


def _shown(judged: Sequence[tuple[Candidate, Judgement]], pair: PreferencePair | None, margin: float) -> ShownPrompt:
    roles = {pair.chosen_index: "chosen", pair.rejected_index: "rejected"} if pair else {}
    candidates = [ShownCandidate(one, judgement, roles.get(one.index, "")) for one, judgement in judged]
    candidates.sort(key=lambda one: -1.0 if one.judgement.score is None else one.judgement.score, reverse=True)
    scored = sum(judgement.score is not None for _, judgement in judged)
    if pair:
        outcome = f"pair: {pair.chosen_score:.3f} over {pair.rejected_score:.3f}"
    elif scored < 2:
        outcome = f"no pair: no score for {len(judged) - scored} of {len(judged)} candidates"
    else:
        outcome = f"no pair: the scores differ by no more than {margin:g}" if margin else "no pair: the scores tie"
    return ShownPrompt(judged[0][0].prompt, candidates, outcome)
