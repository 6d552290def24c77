"""The length baseline: the longer the answer, the higher the score. It reads nothing, and is often hard to beat."""

from __future__ import annotations

from collections.abc import Sequence

from selfreward.config import JudgeConfig
from selfreward.hygiene.diversity import in_words
from selfreward.hygiene.similar import length_in_words
from selfreward.judges.base import JudgeContext
from selfreward.records import Candidate, Judgement

HIGHEST = 5
_FULL_MARKS = 400  # words


def judge(candidates: Sequence[Candidate], config: JudgeConfig, context: JudgeContext) -> list[Judgement]:
    """Scores in proportion to the number of words, up to 400, in whichever script."""
    context.advance(len(candidates), 0)
    judgements: list[Judgement] = []
    for candidate in candidates:
        score = min(length_in_words(in_words(candidate.text)) / _FULL_MARKS, 1.0) * HIGHEST
        judgements.append(Judgement(candidate.prompt_id, candidate.index, score, [score], [], None))
    return judgements


def longer_wins(length: int, other: int) -> float:
    """What a judge that looks at length alone would say: 1 where the first is longer, 0 where shorter, else a half."""
    return 0.5 if length == other else float(length > other)
