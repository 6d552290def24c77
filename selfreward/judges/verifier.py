"""A judge that is right: the share of a prompt's constraints that an answer keeps, by code."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from selfreward.config import JudgeConfig
from selfreward.errors import ConfigError
from selfreward.judges.base import Bench
from selfreward.records import Candidate, Judgement
from selfreward.simulation.requests import load, passed

HIGHEST = 1


def judge(candidates: Sequence[Candidate], config: JudgeConfig, bench: Bench) -> list[Judgement]:
    """Scores of 0 to 1, each constraint a sample.

    Raises `ConfigError` for a prompt that carries nothing to check.
    """
    bench.advance(len(candidates), 0)
    judgements: list[Judgement] = []
    for candidate in candidates:
        if not candidate.check:
            remedy = "these prompts carry nothing to check; take prompts=constraints, or another judge"
            raise ConfigError("judge.kind", "verifier", remedy)
        kept = [float(holds) for holds in passed(candidate.text, load(candidate.check))]
        judgements.append(Judgement(candidate.prompt_id, candidate.index, fmean(kept), kept, [], None))
    return judgements
