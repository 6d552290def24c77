"""How far a judge agrees with people on answers that they ranked or graded, beside the longer answer as a judge."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, groupby
from statistics import fmean

from selfreward.config import JudgeConfig
from selfreward.conversation import first_message
from selfreward.intervals import bootstrap_ratio
from selfreward.judges import JUDGES
from selfreward.judges.base import JudgeContext
from selfreward.judges.length import longer_wins
from selfreward.records import Judgement, Rating
from selfreward.stages.judgements import JudgementsIdentity
from selfreward.stages.tools import Tools, cut
from selfreward.store import Artifact, Identity, Metrics, Stage, Work

ALIKE = 0.75
"""Two answers are of like length where the shorter has at least this share of the longer's characters."""


@dataclass(frozen=True)
class AgreementIdentity(Identity):
    """Which judge, and how sure its agreement is to be known."""

    judging: JudgementsIdentity
    bootstrap_samples: int
    confidence: float


@dataclass(frozen=True)
class RatedPair:
    """Two answers to a prompt, the first of which people think better, and a judge's scores of both.

    `conversation` is the message that the prompt's conversation begins with: pairs of one are not independent.
    """

    conversation: str
    better: str
    worse: str
    better_score: float
    worse_score: float

    @property
    def agrees(self) -> float:
        """1 where the judge thinks so too, a half where it can't tell them apart, else 0."""
        if self.better_score == self.worse_score:
            return 0.5
        return float(self.better_score > self.worse_score)

    @property
    def longer_agrees(self) -> float:
        """The same of a judge that prefers the longer answer."""
        return longer_wins(len(self.better), len(self.worse))

    @property
    def alike(self) -> bool:
        """Whether both are of like length."""
        shorter, longer = sorted([len(self.better), len(self.worse)])
        return shorter >= ALIKE * longer


def agreement(config: AgreementIdentity, parents: Mapping[str, Artifact], work: Work, tools: Tools) -> Metrics:
    """Have `parents["policy"]`, or the outside engine that judges, score the answers of `parents["ratings"]`, and count
    how often it puts two of them in the order that people put them in. Its judgements are kept, in their order."""
    ratings = parents["ratings"].read(Rating)
    settings = JudgeConfig(**config.judging.judge)
    adapter = tools.adapter(parents["policy"]) if "policy" in parents else None
    context = JudgeContext(tools.engine_of("judge"), adapter, work.seed, work.advance)
    by_prompt = [list(group) for _, group in groupby(ratings, key=lambda rating: rating.prompt_id)]

    def compute(shard: Sequence[list[Rating]]) -> list[Judgement]:
        answers = [rating.as_candidate(index) for group in shard for index, rating in enumerate(group)]
        return JUDGES[settings.kind].judge(answers, settings, context)

    work.plan(len(ratings), "answers")
    judgements = work.shards(
        cut(by_prompt, settings.shard_size), compute, Judgement, units=lambda shard: sum(map(len, shard))
    )
    scores = [judgement.score for judgement in judgements]
    metrics = agreement_metrics(rated_pairs(ratings, scores), config.bootstrap_samples, config.confidence, work.seed)
    return {"answers": len(ratings), "unscored": scores.count(None), **metrics}


def rated_pairs(ratings: Sequence[Rating], scores: Sequence[float | None]) -> list[RatedPair]:
    """All two answers to a prompt that people compared and did not think equal, and that have a score both."""
    scored = [(rating, score) for rating, score in zip(ratings, scores, strict=True) if score is not None]
    scored.sort(key=lambda both: both[0].prompt_id)
    pairs: list[RatedPair] = []
    for _, group in groupby(scored, key=lambda both: both[0].prompt_id):
        for one, other in combinations(group, 2):
            better, worse = (one, other) if one[0].score > other[0].score else (other, one)
            if better[0].is_comparable(worse[0]):
                begun = first_message(better[0].prompt)
                pairs.append(RatedPair(begun, better[0].response, worse[0].response, better[1], worse[1]))
    return pairs


def agreement_metrics(pairs: Sequence[RatedPair], samples: int, confidence: float, seed: int) -> Metrics:
    """Agreement of the judge and of the longer answer, over all pairs and over those of like length, with intervals:
    conversations are drawn whole. A pair that the judge can't tell apart counts one half."""
    metrics: Metrics = {}
    for name, chosen in (("", pairs), ("_alike", [pair for pair in pairs if pair.alike])):
        metrics[f"pairs{name}"] = len(chosen)
        if chosen:
            groups: defaultdict[str, list[float]] = defaultdict(list)
            for pair in chosen:
                groups[pair.conversation].append(pair.agrees)
            sums, counts = [*map(sum, groups.values())], [*map(len, groups.values())]
            around = bootstrap_ratio(sums, counts, samples, confidence, seed)
            metrics[f"agreement{name}"] = fmean(pair.agrees for pair in chosen)
            metrics[f"agreement{name}_low"] = around and around.low
            metrics[f"agreement{name}_high"] = around and around.high
            metrics[f"agreement_ties{name}"] = fmean(pair.agrees == 0.5 for pair in chosen)
            metrics[f"longer_agreement{name}"] = fmean(pair.longer_agrees for pair in chosen)
    return metrics


AGREEMENT = Stage("agreements", 4, agreement)
