"""What the rubric's judge is taught by people's scores: what it is asked, and what it should say, in both modes."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations, zip_longest
from random import Random

from selfreward.judges import pairwise, rubric
from selfreward.model.chat import Chat
from selfreward.records import Rating
from selfreward.training.examples import Example

REASONS = (
    "The reply is hardly about what was asked. Little of it would help the person, and it keeps to none of the limits.",
    "The reply is on topic. But it deals with a small part of the request, leaves the rest out, and repeats itself.",
    "The reply is on topic and deals with a good part of the request. Something is missing, and it could be clearer.",
    "The reply is on topic, has substance, and does what was asked within its limits. Some of it is padding.",
    "The reply does what was asked and keeps to the limits of the request. It is well ordered and easy to read.",
    "The reply is correct throughout and complete. It is clear and well ordered, and an expert would change nothing.",
)
"""For the scores 0 to 5: people's data has scores alone."""


def score_lesson(rating: Rating, chat: Chat) -> Example:
    """Of `expected`: the score token alone. A score between two is both of them, each by how near it is (two-hot, as
    in arXiv 2403.03950, section 3)."""
    choices = rubric.score_choices(chat)
    below = min(math.floor(rating.score), rubric.HIGHEST - 1)
    asked = chat.render(rubric.build_message(rating.as_candidate(), "expected")) + choices.opening_ids
    return Example(asked, [choices.choice_ids[below]], choices.choice_ids[below + 1], rating.score - below)


def written_lesson(rating: Rating, chat: Chat) -> Example:
    """Of `sampled`: a reason and the score, rounded."""
    score = round(rating.score)
    said = chat.answer(f"{REASONS[score]}\n{rubric.OPENING} {score}")
    return Example(chat.render(rubric.build_message(rating.as_candidate(), "sampled")), said)


def duel_lessons(ratings: Sequence[Rating], chat: Chat, most: int, seed: int) -> list[Example]:
    """Of an evaluation's duels: which of two answers is better, in both orders. At most `most`, with no more of a
    prompt than it takes; what people scored alike, or never compared, is left out."""
    choices = pairwise.answer_choices(chat)
    by_prompt: defaultdict[str, list[Rating]] = defaultdict(list)
    for rating in Random(seed).sample(ratings, len(ratings)):
        by_prompt[rating.prompt_id].append(rating)
    pairs = [[pair for pair in combinations(some, 2) if pair[0].is_comparable(pair[1])] for some in by_prompt.values()]
    in_turn = [
        pair for some in zip_longest(*pairs) for pair in some if pair
    ]  # a prompt's second after all prompts' first
    lessons: list[Example] = []
    for one, other in in_turn[: most // 2]:
        better = choices.choice_ids if one.score > other.score else choices.choice_ids[::-1]
        messages = pairwise.build_messages(pairwise.Duel(one.prompt, one.response, other.response))
        for message, token in zip(messages, better, strict=True):
            lessons.append(Example(chat.render(message) + choices.opening_ids, [token]))
    return lessons


def balanced(ratings: Sequence[Rating], most: int | None, seed: int) -> list[Rating]:
    """Of each rounded score as many as of any other, as far as there are so many, in the order that the seed gives; at
    most `most` in all.

    No more in all than if there were of each as many as of the second rarest: the rarest may be missing nearly
    altogether.
    """
    by_score: defaultdict[int, list[Rating]] = defaultdict(list)
    for rating in Random(seed).sample(ratings, len(ratings)):
        by_score[round(rating.score)].append(rating)
    sizes = sorted(map(len, by_score.values()))
    enough = sizes[min(1, len(sizes) - 1)] * len(sizes)
    wanted = enough if most is None else min(most, enough)
    chosen: list[Rating] = []
    for left, group in zip(range(len(sizes), 0, -1), sorted(by_score.values(), key=len), strict=True):
        chosen += group[: (wanted - len(chosen)) // left]  # what one score lacks, the others have more of
    return Random(seed).sample(chosen, len(chosen))
