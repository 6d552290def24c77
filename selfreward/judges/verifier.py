"""A judge that is right: how well an answer passes its prompt's checks, by code."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from selfreward.config import JudgeConfig
from selfreward.errors import ConfigError
from selfreward.judges.base import JudgeContext
from selfreward.records import Candidate, Judgement
from selfreward.simulation import checks

HIGHEST = 1


def judge(candidates: Sequence[Candidate], config: JudgeConfig, context: JudgeContext) -> list[Judgement]:
    """Scores of 0 to 1, the mean over a prompt's checks.

    Raises `ConfigError` for a prompt that carries nothing to check.
    """
    context.advance(len(candidates), 0)
    return [
        Judgement(candidate.prompt_id, candidate.index, score, [score], [], None)
        for candidate, score in zip(candidates, scores(candidates), strict=True)
    ]


def scores(candidates: Sequence[Candidate]) -> list[float]:
    """The same scores alone."""
    return [fmean(_passed(candidate)) for candidate in candidates]


def _passed(candidate: Candidate) -> list[float]:
    if not candidate.check:
        remedy = f"prompt {candidate.prompt_id} carries nothing to check; take prompts=constraints, or another judge"
        raise ConfigError("judge.kind", "verifier", remedy)
    return checks.scores(candidate.text, checks.load(candidate.check), finished=candidate.finished)
