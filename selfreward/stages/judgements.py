"""Judgements: a judge's score for each candidate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any

from selfreward.config import JudgeConfig
from selfreward.errors import JudgeError
from selfreward.judges import JUDGES
from selfreward.judges.base import JudgeContext
from selfreward.records import Candidate, Judgement
from selfreward.roles import Role, engine_settings
from selfreward.stages.candidates import EngineIdentity
from selfreward.stages.tools import Tools, cut
from selfreward.store import Artifact, Identity, Metrics, Stage, Work

BINS = 10


@dataclass(frozen=True)
class JudgementsIdentity(Identity):
    """How is judged, with which words, and on which engine."""

    judge: Mapping[str, Any]  # the settings in use
    texts: tuple[str, ...]
    engine: EngineIdentity


def judgements_identity(judge: JudgeConfig, engine: EngineIdentity) -> JudgementsIdentity:
    """What judgements by these settings depend on."""
    return JudgementsIdentity(judge.in_use, JUDGES[judge.kind].texts.get(judge.mode, ()), engine)


def judge(
    config: JudgementsIdentity, parents: Mapping[str, Artifact], work: Work, tools: Tools, *, role: Role
) -> Metrics:
    """A judgement for each of `parents["candidates"]`, in their order, by the engine of `role`.

    It judges as `parents["policy"]`, or as itself where none is given: an outside engine has a model of its own.
    """
    candidates = parents["candidates"].read(Candidate)
    adapter = tools.adapter(parents["policy"]) if "policy" in parents else None
    settings = JudgeConfig(**config.judge)
    chosen = JUDGES[settings.kind]
    by_prompt = [list(group) for _, group in groupby(candidates, key=lambda candidate: candidate.prompt_id)]
    context = JudgeContext(tools.engine_of(role), adapter, work.seed, work.advance)

    def compute(shard: Sequence[list[Candidate]]) -> list[Judgement]:
        asked = [candidate for group in shard for candidate in group]
        judged = chosen.judge(asked, settings, context)
        check_judged(settings.kind, asked, judged, chosen.highest)
        return judged

    work.plan(len(candidates), "candidates")
    asks_here = settings.asks_a_model and engine_settings(tools.cfg, role).kind == "hf"
    if asks_here:  # other engines take no memory of this process
        plan = tools.plan
        parts = plan.sampling if settings.mode == "sampled" else plan.costs.scoring(plan.scoring_tokens)
        work.planned_memory = sum(parts.values())
    judgements = work.shards(
        cut(by_prompt, settings.shard_size),
        compute,
        Judgement,
        units=lambda shard: sum(len(group) for group in shard),
        size=lambda shard: max(len(c.prompt_ids) + len(c.token_ids) for group in shard for c in group),
    )
    return _metrics(judgements, chosen.highest)


def check_judged(kind: str, candidates: Sequence[Candidate], judgements: Sequence[Judgement], highest: float) -> None:
    """Raise `JudgeError` where a judge does not keep to what is asked of one: a judgement of each candidate, in their
    order, with a score from 0 to `highest` or none."""
    if [(one.prompt_id, one.index) for one in judgements] != [(one.prompt_id, one.index) for one in candidates]:
        told = f"{len(judgements)} judgements of {len(candidates)} candidates, or in another order"
        raise JudgeError(f"judge.kind={kind}: gave {told}: give one of each, in theirs")
    for one in judgements:
        if one.score is not None and not 0 <= one.score <= highest:
            told = f"a score of {one.score:g}"
            raise JudgeError(f"judge.kind={kind}: gave {told}: give one from 0 to {highest:g}, or None")


def _metrics(judgements: Sequence[Judgement], highest: float) -> Metrics:
    scores = [judgement.score for judgement in judgements if judgement.score is not None]
    masses = [judgement.score_mass for judgement in judgements if judgement.score_mass is not None]
    asked = sum(max(len(judgement.replies), 1) for judgement in judgements)
    answered = sum(len(judgement.samples) for judgement in judgements)
    return {
        "judgements": len(judgements),
        "scored": len(scores),
        "parse_failure_rate": 1 - answered / asked if asked else 0.0,
        "mean_score": sum(scores) / len(scores) if scores else None,
        "highest_score": highest,
        "scores": scores,
        "score_histogram": histogram(scores, highest),
        "score_mass": sum(masses) / len(masses) if masses else None,
    }


def histogram(scores: Sequence[float], highest: float) -> list[int]:
    """Counts in ten equal bins from 0 to `highest`."""
    counts = [0] * BINS
    for score in scores:
        counts[min(int(score / highest * BINS), BINS - 1)] += 1
    return counts


_VERSION = 8
JUDGEMENTS = Stage("judgements", _VERSION, partial(judge, role="judge"))
HELD_OUT_JUDGEMENTS = Stage("judgements", _VERSION, partial(judge, role="evaluation"))
