"""LLM-as-a-judge with an additive rubric of 0 to 5 points, as in Self-Rewarding Language Models (arXiv 2401.10020).

Two modes. `expected`: the mean of the score token's distribution, read in one prefill (mean beats mode in most
comparisons of arXiv 2503.03064). `sampled`: several judgements with reasoning, parsed and averaged, as in the paper.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from statistics import fmean  # exact, so that equal replies in another order tie

from selfreward.config import JudgeConfig
from selfreward.engines.base import Decoding, SampleRequest
from selfreward.errors import VerdictError
from selfreward.judges import request
from selfreward.judges.base import JudgeContext
from selfreward.model.chat import Chat, Choices
from selfreward.records import Candidate, Judgement
from selfreward.store import derive_seed
from selfreward.texts import fill, read_text

RUBRIC = read_text(__file__, "rubric.txt")
ASK = {mode: read_text(__file__, f"rubric_{mode}.txt") for mode in ("expected", "sampled")}
TEXTS = {mode: (RUBRIC, ask, *request.TEXTS) for mode, ask in ASK.items()}
HIGHEST = 5
OPENING = "Score:"
_VERDICT = re.compile(
    r"^\W*(?:total )?score\W*:[\s*_(\[<]*(\d+(?:\.\d+)?)\W*(?:(?:/|out of)\s*5)?\W*$", re.IGNORECASE | re.MULTILINE
)

_MAY_GO_ON = re.compile(r"\.?|\W*/\s*")
"""After a number that a reply ends in: "Score: 4" may have become 4.5, and "Score: 4/" out of 10."""


def judge(candidates: Sequence[Candidate], config: JudgeConfig, context: JudgeContext) -> list[Judgement]:
    """A judgement for each candidate. Equal answers to a prompt are judged once, so that they tie exactly."""
    modes = {"expected": _expected, "sampled": _sampled}
    return modes[config.mode](candidates, config, context)


def build_message(candidate: Candidate, mode: str) -> str:
    """What the judge is asked about a candidate; what most of its messages share stands first."""
    return fill(RUBRIC, ask=ASK[mode].strip(), request=request.show(candidate.prompt), candidate=candidate.text)


def parse(reply: str, *, finished: bool = True) -> float:
    """The score on the last line of a judge's own reply that states one.

    Raises `VerdictError` where there is none, or one outside 0 to 5, or the last thing that a reply says which was cut
    off before it was `finished`. The reply never holds the candidate: what a candidate says about its own score is not
    looked at.
    """
    verdicts = list(_VERDICT.finditer(reply))
    if not verdicts:
        raise VerdictError("the reply states no score")
    if not finished and _MAY_GO_ON.fullmatch(reply, verdicts[-1].end(1)):
        raise VerdictError("the reply is cut off in its verdict")
    score = float(verdicts[-1][1])
    if not 0 <= score <= HIGHEST:
        raise VerdictError(f"the reply states {score:g}, which is not between 0 and {HIGHEST}")
    return score


def _expected(candidates: Sequence[Candidate], config: JudgeConfig, context: JudgeContext) -> list[Judgement]:
    chat = context.engine.chat
    choices = score_choices(chat)
    messages = {_key(c): build_message(c, config.mode) for c in candidates}
    prompts = [chat.render(message) + choices.opening_ids for message in messages.values()]
    logprobs = context.engine.score(prompts, choices.choice_ids, context.adapter, context.advance)
    context.advance(len(candidates) - len(prompts), 0)
    scored = {key: expected_score(row) for key, row in zip(messages, logprobs, strict=True)}
    judgements: list[Judgement] = []
    for candidate in candidates:
        score, mass = scored[_key(candidate)]
        samples = [] if score is None else [score]
        judgements.append(Judgement(candidate.prompt_id, candidate.index, score, samples, [], mass))
    return judgements


def score_choices(chat: Chat) -> Choices:
    """What `expected` chooses among, in the order of the scores."""
    return chat.choices(OPENING, [str(value) for value in range(HIGHEST + 1)])


def expected_score(logprobs: Sequence[float]) -> tuple[float | None, float]:
    """The mean score, and the probability that fell on scores at all, from the log-probability of each score token.

    The mean is over score tokens alone; it is None where their probability vanishes.
    """
    weights = [math.exp(logprob) for logprob in logprobs]
    mass = math.fsum(weights)
    if mass <= 0 or not math.isfinite(mass):
        return None, 0.0
    return math.fsum(value * weight for value, weight in enumerate(weights)) / mass, min(mass, 1.0)


def _sampled(candidates: Sequence[Candidate], config: JudgeConfig, context: JudgeContext) -> list[Judgement]:
    chat = context.engine.chat
    unique = {_key(c): c for c in candidates}
    requests = [
        SampleRequest(
            chat.render(build_message(candidate, config.mode)),
            [derive_seed(context.seed, "judge", *key, k) for k in range(config.samples)],
        )
        for key, candidate in unique.items()
    ]
    decoding = Decoding(config.temperature, config.top_p, config.max_new_tokens)
    sampled = context.engine.sample(requests, decoding, context.adapter, context.advance)
    context.advance(len(candidates) - len(requests), 0)
    replies = {
        key: [(chat.decode(completion.token_ids), completion.finished) for completion in completions]
        for key, completions in zip(unique, sampled, strict=True)
    }
    judgements: list[Judgement] = []
    for candidate in candidates:
        said = replies[_key(candidate)]
        scores = _parsed(said)
        mean = fmean(scores) if scores else None
        texts = [reply for reply, _ in said]
        judgements.append(Judgement(candidate.prompt_id, candidate.index, mean, scores, texts, None))
    return judgements


def _parsed(replies: Sequence[tuple[str, bool]]) -> list[float]:
    """The scores of replies, each with whether it is finished."""
    scores: list[float] = []
    for reply, finished in replies:
        try:
            scores.append(parse(reply, finished=finished))
        except VerdictError:
            continue  # missing data: the judgement shows fewer samples than replies
    return scores


def _key(candidate: Candidate) -> tuple[str, str]:
    return candidate.prompt_id, candidate.text
