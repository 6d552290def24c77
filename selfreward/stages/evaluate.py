"""How a policy does on held-out prompts: judge score, length, diversity, and a duel with policy 0."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from selfreward.hygiene.diversity import distinct_n
from selfreward.intervals import Interval, bootstrap, length_controlled, sign_test
from selfreward.judges.base import JudgeContext
from selfreward.judges.length import longer_wins
from selfreward.judges.pairwise import Duel, Preference, prefer
from selfreward.records import Candidate, Comparison, Judgement
from selfreward.simulation.checks import load, passes
from selfreward.stages.candidates import EngineIdentity
from selfreward.stages.tools import Tools, cut
from selfreward.store import Artifact, Identity, Metrics, Stage, Work

DUELS_PER_SHARD = 32


@dataclass(frozen=True)
class EvaluationIdentity(Identity):
    """How answers are compared, and how sure one is of it."""

    bootstrap_samples: int
    confidence: float
    texts: tuple[str, ...]
    engine: EngineIdentity


def evaluate(config: EvaluationIdentity, parents: Mapping[str, Artifact], work: Work, tools: Tools) -> Metrics:
    """Metrics of `parents["candidates"]` and their `parents["judgements"]`, one answer a prompt.

    With `parents["baseline"]`, policy 0's answers to the same prompts, the two are compared in both orders: by
    `parents["judge"]`, or, where none is given, by the outside engine that evaluates.
    """
    answers = parents["candidates"].read(Candidate)
    judgements = parents["judgements"].metrics
    metrics: Metrics = {
        "answers": len(answers),
        "prompts_too_long": parents["candidates"].metrics["prompts_too_long"],
        "scored": judgements["scored"],
        "mean_score": judgements["mean_score"],
        "parse_failure_rate": judgements["parse_failure_rate"],
        "mean_tokens": fmean(len(answer.token_ids) for answer in answers),
        "finished_share": fmean(answer.finished for answer in answers),
        "distinct_1": distinct_n([answer.text for answer in answers], 1),
        "distinct_2": distinct_n([answer.text for answer in answers], 2),
        **pass_rates(answers),
    }
    if "baseline" not in parents:
        return metrics
    scores = {j.prompt_id: j.score for j in parents["judgements"].read(Judgement)}
    baseline = {answer.prompt_id: answer for answer in parents["baseline"].read(Candidate)}
    metrics |= pass_gains(answers, baseline, config.bootstrap_samples, config.confidence, work.seed)
    adapter = tools.adapter(parents["judge"]) if "judge" in parents else None
    context = JudgeContext(tools.engine_of("evaluation"), adapter, work.seed, lambda _, tokens: work.advance(0, tokens))

    def compute(shard: Sequence[Candidate]) -> list[Comparison]:
        duels = [Duel(answer.prompt, answer.text, baseline[answer.prompt_id].text) for answer in shard]
        preferences = prefer(duels, context)
        work.advance(len(shard))
        return [
            _comparison(answer, baseline[answer.prompt_id], scores[answer.prompt_id], preference)
            for answer, preference in zip(shard, preferences, strict=True)
        ]

    work.plan(len(answers), "duels")
    comparisons = work.shards(cut(answers, DUELS_PER_SHARD), compute, Comparison)
    return metrics | duel_metrics(comparisons, config.bootstrap_samples, config.confidence, work.seed)


def duel_metrics(comparisons: Sequence[Comparison], samples: int, confidence: float, seed: int) -> Metrics:
    """Win rate with its interval, whether anything was shown, what the length of answers alone would have said, and
    what is left of the win rate at equal length.

    An answer wins where the judge's probability for it, averaged over both orders, is above one half. Something is
    shown where the interval leaves out one half and a sign test agrees: of few duels the interval is too narrow, and
    four that all go one way, as of a fair coin they do once in eight times, leave it no width.
    """
    wins = [comparison.win for comparison in comparisons]
    by_length = [longer_wins(comparison.tokens, comparison.baseline_tokens) for comparison in comparisons]
    differing = [comparison for comparison in comparisons if comparison.text != comparison.baseline_text]
    agreeing = [(c.preference_first > 0.5) == (c.preference_second > 0.5) for c in differing]
    interval = bootstrap(wins, samples, confidence, seed)
    longer_by = [comparison.tokens - comparison.baseline_tokens for comparison in comparisons]
    at_equal_length = length_controlled(wins, longer_by, samples, confidence, seed)
    controlled, around = at_equal_length or (None, None)
    return {
        "win_rate": fmean(wins),
        "win_rate_low": interval.low,
        "win_rate_high": interval.high,
        "win_rate_shown": _is_shown(interval, 0.5, wins.count(1.0), wins.count(0.0), confidence),
        "confidence": confidence,
        "preference": fmean(comparison.preference for comparison in comparisons),
        "choice_mass": fmean(comparison.choice_mass for comparison in comparisons),
        "ties": wins.count(0.5),
        "order_agreement": fmean(agreeing) if agreeing else None,
        "length_win_rate": fmean(by_length),
        "controlled_win_rate": controlled,
        "controlled_win_rate_low": around.low if around else None,
        "controlled_win_rate_high": around.high if around else None,
    }


def pass_rates(answers: Sequence[Candidate]) -> Metrics:
    """The share of answers that pass all their checks: of all, and of each category. Nothing where none has any."""
    return {f"pass_rate{kind}": fmean(passed.values()) for kind, passed in _passed(answers).items()}


def pass_gains(
    answers: Sequence[Candidate], baseline: Mapping[str, Candidate], samples: int, confidence: float, seed: int
) -> Metrics:
    """How much higher the share is than the baseline's, with the interval of the mean difference over prompts, and
    whether a difference was shown: as of win rates, by the interval and a sign test."""
    metrics: Metrics = {}
    before = _passed([baseline[answer.prompt_id] for answer in answers])
    for kind, passed in _passed(answers).items():
        gains = [float(passed[prompt]) - before[kind][prompt] for prompt in passed]
        interval = bootstrap(gains, samples, confidence, seed)
        metrics[f"pass_gain{kind}"] = fmean(gains)
        metrics[f"pass_gain_low{kind}"], metrics[f"pass_gain_high{kind}"] = interval.low, interval.high
        shown = _is_shown(interval, 0.0, gains.count(1.0), gains.count(-1.0), confidence)
        metrics[f"pass_gain_shown{kind}"] = shown
    return metrics


def _is_shown(interval: Interval, nothing: float, wins: int, losses: int, confidence: float) -> bool:
    """Whether the interval leaves out what would be nothing, and a coin seldom falls as wins and losses do."""
    return not interval.low <= nothing <= interval.high and sign_test(wins, losses) <= 1 - confidence


def _passed(answers: Sequence[Candidate]) -> dict[str, dict[str, bool]]:
    """Whether the answer to each prompt that can be checked passes: of all prompts, and of each category.

    The keys are what names of metrics end in, and then the prompts' ids. The slash keeps a category called `low` apart
    from the end of an interval.
    """
    groups: dict[str, dict[str, bool]] = {}
    for answer in answers:
        if answer.check:
            passed = passes(answer.text, load(answer.check), finished=answer.finished)
            kinds = ["", f"/{answer.category}"] if answer.category else [""]
            for kind in kinds:
                groups.setdefault(kind, {})[answer.prompt_id] = passed
    return groups


def _comparison(answer: Candidate, baseline: Candidate, score: float | None, preference: Preference) -> Comparison:
    return Comparison(
        prompt_id=answer.prompt_id,
        prompt=answer.prompt,
        text=answer.text,
        tokens=len(answer.token_ids),
        score=score,
        baseline_text=baseline.text,
        baseline_tokens=len(baseline.token_ids),
        preference_first=preference.first,
        preference_second=preference.second,
        choice_mass=preference.mass,
    )


EVALUATE = Stage("evaluations", 13, evaluate)
