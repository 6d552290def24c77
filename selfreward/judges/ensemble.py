"""Two judges in one: what code can check, and what the model says under the rubric, by weight."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean  # exact, so that equal replies in another order tie

from selfreward.config import JudgeConfig
from selfreward.judges import rubric, verifier
from selfreward.judges.base import JudgeContext
from selfreward.records import Candidate, Judgement

HIGHEST = 1


def judge(candidates: Sequence[Candidate], config: JudgeConfig, context: JudgeContext) -> list[Judgement]:
    """Scores of 0 to 1. Where the model's own can't be read there is none: half a score is not a score."""
    checked = verifier.scores(candidates)
    weight = config.verifier_weight
    judgements: list[Judgement] = []
    for by_code, read in zip(checked, rubric.judge(candidates, config, context), strict=True):
        mixed = [weight * by_code + (1 - weight) * score / rubric.HIGHEST for score in read.samples]
        score = fmean(mixed) if mixed else None
        judgements.append(Judgement(read.prompt_id, read.index, score, mixed, read.replies, read.score_mass))
    return judgements
