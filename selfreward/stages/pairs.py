"""Preference pairs: of each prompt's scored candidates, the one to prefer and the one to reject."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import fmean

from selfreward.config import PairsConfig
from selfreward.errors import NoPairsError
from selfreward.judges.length import longer_wins
from selfreward.pairing import PAIRINGS
from selfreward.pairing.base import Chosen, Scored
from selfreward.records import Candidate, Judgement, PreferencePair
from selfreward.stages.tools import Tools
from selfreward.store import Artifact, Identity, Metrics, Stage, Work


@dataclass(frozen=True)
class PairsIdentity(Identity):
    """Which rule pairs, and by which margin."""

    pairs: PairsConfig


def build_pairs(config: PairsIdentity, parents: Mapping[str, Artifact], work: Work, tools: Tools) -> Metrics:
    """Pairs from `parents["candidates"]` and `parents["judgements"]`.

    A candidate without a score is missing data: neither chosen nor rejected. A tie makes no pair. Both are counted, and
    so are prompts without a pair because no candidate that ended may be chosen.

    Raises `NoPairsError` where none is left.
    """
    judgements = parents["judgements"].read(Judgement)
    scored = join(parents["candidates"].read(Candidate), judgements)
    rule = PAIRINGS[config.pairs.kind]
    made: list[Chosen] = []
    ties = unscored = cut_off = 0
    for candidates in scored:
        eligible = candidates if config.pairs.cut_off == "keep" else without_better_cut_off(candidates)
        if len(candidates) < 2:
            unscored += 1
        elif len(eligible) < 2:
            cut_off += 1
        elif chosen := rule(eligible, config.pairs.margin):
            made.append(chosen)
        else:
            ties += 1
    if not made:
        remedy = "raise sampling.n or sampling.temperature" + (", or lower pairs.margin" if config.pairs.margin else "")
        if cut_off > max(ties, unscored):
            remedy = "raise sampling.max_new_tokens, or use pairs.cut_off=keep"
        elif unscored > ties and not any(judgement.replies for judgement in judgements):
            remedy = "the judge finds no score token likely; take model.dtype=bfloat16 or float32, or another model"
        elif unscored > ties:
            remedy = "use judge.mode=expected, which reads a score of every answer, or raise judge.max_new_tokens"
        raise NoPairsError(
            f"no preference pair in {len(scored)} prompts ({ties} ties, {unscored} without two scores"
            + (f", {cut_off} without a choice that ended" if cut_off else "")
            + f"): {remedy}"
        )
    pairs = [_pair(chosen) for chosen in made]
    work.shards([pairs], list, PreferencePair)
    finished = {
        "chosen_finished_share": fmean(chosen.chosen.candidate.finished for chosen in made),
        "rejected_finished_share": fmean(chosen.rejected.candidate.finished for chosen in made),
    }
    return _metrics(pairs, len(scored), ties, unscored) | finished | {"cut_off": cut_off}


def without_better_cut_off(candidates: Sequence[Scored]) -> list[Scored]:
    """Those of a prompt's candidates that ended, and of those that were cut off the ones that score below the best of
    them: these may be rejected. None where no candidate ended."""
    ended = [one.score for one in candidates if one.candidate.finished]
    return [one for one in candidates if ended and (one.candidate.finished or one.score < max(ended))]


def join(candidates: Sequence[Candidate], judgements: Sequence[Judgement]) -> list[list[Scored]]:
    """The scored candidates of each prompt, joined by number: by position, a skipped row would shift the rest."""
    scores = {(j.prompt_id, j.index): j.score for j in judgements}
    grouped: list[list[Scored]] = []
    for _, group in groupby(candidates, key=lambda candidate: candidate.prompt_id):
        items: list[Scored] = []
        for candidate in group:
            score = scores[candidate.prompt_id, candidate.index]
            if score is not None:
                items.append(Scored(candidate, score))
        grouped.append(items)
    return grouped


def _pair(pair: Chosen) -> PreferencePair:
    chosen, rejected = pair.chosen.candidate, pair.rejected.candidate
    return PreferencePair(
        prompt_id=chosen.prompt_id,
        prompt=chosen.prompt,
        prompt_ids=chosen.prompt_ids,
        chosen_index=chosen.index,
        chosen_ids=chosen.token_ids,
        chosen_logprobs=chosen.logprobs,
        chosen_score=pair.chosen.score,
        rejected_index=rejected.index,
        rejected_ids=rejected.token_ids,
        rejected_logprobs=rejected.logprobs,
        rejected_score=pair.rejected.score,
    )


def _metrics(pairs: Sequence[PreferencePair], prompts: int, ties: int, unscored: int) -> Metrics:
    return {
        "prompts": prompts,
        "pairs": len(pairs),
        "yield": len(pairs) / prompts,
        "ties": ties,
        "tie_rate": ties / prompts,
        "unscored": unscored,
        "score_margin": fmean(pair.chosen_score - pair.rejected_score for pair in pairs),
        "chosen_tokens": fmean(len(pair.chosen_ids) for pair in pairs),
        "rejected_tokens": fmean(len(pair.rejected_ids) for pair in pairs),
        "longer_chosen_share": fmean(longer_wins(len(pair.chosen_ids), len(pair.rejected_ids)) for pair in pairs),
    }


PAIRS = Stage("pairs", 1, build_pairs)
