"""Which of two answers is better, asked in both orders: a judge that likes the first place must not decide (Zheng et
al., arXiv 2306.05685, section 3.4)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from selfreward.judges import request
from selfreward.judges.base import JudgeContext
from selfreward.model.chat import Chat, Choices
from selfreward.texts import fill, read_text

QUESTION = read_text(__file__, "pairwise.txt")
TEXTS = (QUESTION, *request.TEXTS)
OPENING = "Better:"


@dataclass(frozen=True)
class Duel:
    """A prompt and two answers to it."""

    prompt: str
    answer: str
    opponent: str


@dataclass(frozen=True)
class Preference:
    """The judge's probability that `answer` is better: when shown first, and when shown second. `mass` is what it gave
    to the two choices together, over both orders: near 1 where it understood what is asked."""

    first: float
    second: float
    mass: float


def build_messages(duel: Duel) -> tuple[str, str]:
    """What the judge is asked about a duel: with the answer shown first, and with its opponent shown first."""
    asked = request.show(duel.prompt)
    return (
        fill(QUESTION, request=asked, first=duel.answer, second=duel.opponent),
        fill(QUESTION, request=asked, first=duel.opponent, second=duel.answer),
    )


def answer_choices(chat: Chat) -> Choices:
    """What a duel's judge chooses among: the answer shown first, and the one shown second."""
    return chat.choices(OPENING, ["A", "B"])


def prefer(duels: Sequence[Duel], context: JudgeContext) -> list[Preference]:
    """What the judge prefers in each duel."""
    chat = context.engine.chat
    choices = answer_choices(chat)
    prompts = [chat.render(message) + choices.opening_ids for duel in duels for message in build_messages(duel)]
    logprobs = context.engine.score(prompts, choices.choice_ids, context.adapter, context.advance)
    first_wins = [(1 + math.tanh((a - b) / 2)) / 2 for a, b in logprobs]  # the logistic function, which never overflows
    masses = [math.exp(a) + math.exp(b) for a, b in logprobs]
    orders = zip(first_wins[::2], first_wins[1::2], masses[::2], masses[1::2], strict=True)
    return [Preference(first, 1 - opponent, (mass + other) / 2) for first, opponent, mass, other in orders]
