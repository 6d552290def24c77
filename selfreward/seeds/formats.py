"""What rows of known data sets hold: a demonstration to learn from, and ratings of answers, 0 to 5.

People rank more often than they grade. Among ranked answers the score falls in equal steps from 5, the first's, to 0.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from selfreward import conversation
from selfreward.config import SeedFileConfig
from selfreward.errors import ConfigError
from selfreward.records import Demonstration, Rating, prompt_id
from selfreward.rows import RowError, UnusedRowError, list_of, number_of, text_of

HIGHEST = 5.0
_TURN = re.compile(r"\n\n(Human|Assistant):")


_ANSWER_COLUMNS = ("prompt_column", "response_column")
_GROUP_COLUMNS = ("prompt_column", "responses_column")
_SCALE = ("lowest_score", "highest_score")
_IN_GROUPS = ("response_column", "score_column", *_SCALE)


@dataclass(frozen=True)
class Format:
    """How a data set is read. Each function takes a row and raises `RowError` for one that can't be used.

    `columns` are the settings that name a column which each row must have, of demonstrations and of ratings, and `more`
    those that are read beside them.
    """

    demonstrations: Callable[[Any, SeedFileConfig], list[Demonstration]]
    ratings: Callable[[Any, SeedFileConfig], list[Rating]]
    columns: tuple[Sequence[str], Sequence[str]] = ((), ())
    more: tuple[Sequence[str], Sequence[str]] = ((), ())

    def settings(self, key: str) -> tuple[str, ...]:
        """The settings by which it reads the file that `key` configures."""
        place = int(key != "tuning.demonstrations")
        return (*self.columns[place], *self.more[place])


def _column_demonstrations(row: Any, cfg: SeedFileConfig) -> list[Demonstration]:
    return [_demonstration(_prompt(row, cfg), text_of(row, cfg.response_column))]


def _column_ratings(row: Any, cfg: SeedFileConfig) -> list[Rating]:
    prompt, response = _prompt(row, cfg), text_of(row, cfg.response_column)
    return [_rating(prompt, response, _scaled(number_of(row, cfg.score_column), cfg.lowest_score, cfg.highest_score))]


def _group_demonstrations(row: Any, cfg: SeedFileConfig) -> list[Demonstration]:
    return [_best(_group_ratings(row, cfg))]


def _group_ratings(row: Any, cfg: SeedFileConfig) -> list[Rating]:
    """Several answers in one row, under `responses`, each with a score or a `rank`."""
    answers = list_of(row, cfg.responses_column)
    prompt = _prompt(row, cfg)
    texts = [text_of(answer, cfg.response_column) for answer in answers]
    if any(isinstance(answer, dict) and answer.get("rank") is not None for answer in answers):
        return _ranked(prompt, texts, [number_of(answer, "rank") for answer in answers])
    scores = [_scaled(number_of(a, cfg.score_column), cfg.lowest_score, cfg.highest_score) for a in answers]
    return [_rating(prompt, text, score) for text, score in zip(texts, scores, strict=True)]


def _prompt(row: Any, cfg: SeedFileConfig) -> str:
    """The text to answer: a request alone, or a conversation so far, which ends in a request."""
    messages = row.get(cfg.prompt_column) if isinstance(row, dict) else None
    if not isinstance(messages, list):
        return text_of(row, cfg.prompt_column)
    texts = [text_of(message, "content") for message in list_of(row, cfg.prompt_column)]
    roles = [message.get("role") for message in messages]
    if roles != (["user", "assistant"] * len(roles))[: len(roles)] or roles[-1] != "user":
        raise RowError("its turns do not alternate between user and assistant, from user to user")
    return conversation.join(texts)


def _tree_demonstrations(row: Any, cfg: SeedFileConfig) -> list[Demonstration]:
    """Of an OASST message tree the answer to its first message that people ranked first, where both are English."""
    prompt, answers = _first_turn(row)
    best = [answer for answer in answers if answer.get("rank") == 0]
    if not best:
        raise UnusedRowError("has no answer that is ranked first")
    return [_demonstration(prompt, text_of(best[0], "text"))]


def _tree_ratings(row: Any, cfg: SeedFileConfig) -> list[Rating]:
    """Of an OASST message tree the answers to its first message, as people ranked them."""
    prompt, answers = _first_turn(row)
    ranked = [answer for answer in answers if answer.get("rank") is not None]
    if not ranked:
        raise UnusedRowError("has no answer that is ranked")
    if len(ranked) == 1 and sum(reply.get("rank") is not None for reply in _replies(row["prompt"])) > 1:
        raise UnusedRowError("has one ranked answer left, for the others are not English, or deleted")
    return _ranked(prompt, [text_of(answer, "text") for answer in ranked], [number_of(a, "rank") for a in ranked])


def _first_turn(row: Any) -> tuple[str, list[Any]]:
    root = row.get("prompt") if isinstance(row, dict) else None
    if not isinstance(root, dict):
        raise RowError("has no message tree under prompt")
    prompt = text_of(root, "text")
    _check_roles(root, "prompter")
    if root.get("lang") != "en" or root.get("deleted"):
        raise UnusedRowError("is not English, or deleted")
    return prompt, [reply for reply in _replies(root) if reply.get("lang") == "en" and not reply.get("deleted")]


def _check_roles(message: Any, role: str) -> None:
    if not isinstance(message, dict) or message.get("role") != role:
        said = message.get("role") if isinstance(message, dict) else message
        raise RowError(f"its turns do not alternate: a message of {said} where one of {role} belongs")
    for reply in _replies(message):
        _check_roles(reply, "assistant" if role == "prompter" else "prompter")


def _replies(message: Mapping[str, Any]) -> list[Any]:
    replies = message.get("replies") or []
    if not isinstance(replies, list):
        raise RowError("replies is no list")
    return replies


def _ultrafeedback_demonstrations(row: Any, cfg: SeedFileConfig) -> list[Demonstration]:
    return [_best(_ultrafeedback_ratings(row, cfg))]


def _ultrafeedback_ratings(row: Any, cfg: SeedFileConfig) -> list[Rating]:
    """UltraFeedback (arXiv 2310.01377): `overall_score` runs from 1 to 10."""
    prompt = text_of(row, "instruction")
    return [
        _rating(prompt, text_of(answer, "response"), _scaled(number_of(answer, "overall_score"), 1, 10))
        for answer in list_of(row, "completions")
    ]


def _hh_demonstrations(row: Any, cfg: SeedFileConfig) -> list[Demonstration]:
    return [_demonstration(*_one_turn(text_of(row, "chosen")))]


def _hh_ratings(row: Any, cfg: SeedFileConfig) -> list[Rating]:
    """HH (arXiv 2204.05862): of two dialogues that differ in the last answer, people chose one. First turns alone."""
    (prompt, chosen), (other, rejected) = (_one_turn(text_of(row, column)) for column in ("chosen", "rejected"))
    if prompt != other:
        raise RowError("chosen and rejected answer different requests")
    return _ranked(prompt, [chosen, rejected], [0, 1])


def _one_turn(dialogue: str) -> tuple[str, str]:
    """Request and answer of a dialogue of one turn."""
    start, *parts = _TURN.split("\n\n" + dialogue)
    roles, texts = parts[::2], [text.strip() for text in parts[1::2]]
    if start.strip() or roles != ["Human", "Assistant"] * (len(roles) // 2) or not roles:
        raise RowError("its turns do not alternate between Human and Assistant")
    if not texts[0]:
        raise RowError("its first request is empty")
    if len(texts) > 2:
        raise UnusedRowError("is a dialogue of several turns")
    if not texts[1]:
        raise RowError("its answer is empty")
    return texts[0], texts[1]


def _ranked(prompt: str, texts: Sequence[str], ranks: Sequence[float]) -> list[Rating]:
    if len(texts) < 2:
        raise RowError("has a rank without siblings")
    order = sorted(set(ranks))
    if len(order) < 2:
        raise RowError("ranks all answers alike")
    scores = [HIGHEST * (1 - order.index(rank) / (len(order) - 1)) for rank in ranks]
    group = prompt_id("\n".join(sorted(texts)))
    return [_rating(prompt, text, score, group) for text, score in zip(texts, scores, strict=True)]


def _scaled(score: float, lowest: float, highest: float) -> float:
    share = (score - lowest) / (highest - lowest)
    if not 0 <= share <= 1:
        raise RowError(f"a score is not between {lowest:g} and {highest:g}")
    return share * HIGHEST


def _best(ratings: Sequence[Rating]) -> Demonstration:
    best = max(ratings, key=lambda rating: rating.score)
    return _demonstration(best.prompt, best.response)


def _demonstration(prompt: str, response: str) -> Demonstration:
    return Demonstration(prompt_id(prompt), prompt, response)


def _rating(prompt: str, response: str, score: float, group: str = "") -> Rating:
    return Rating(prompt_id(prompt), prompt, response, score, group)


FORMATS: Mapping[str, Format] = {
    "columns": Format(
        _column_demonstrations,
        _column_ratings,
        (_ANSWER_COLUMNS, (*_ANSWER_COLUMNS, "score_column")),
        ((), _SCALE),
    ),
    "groups": Format(_group_demonstrations, _group_ratings, (_GROUP_COLUMNS, _GROUP_COLUMNS), (_IN_GROUPS, _IN_GROUPS)),
    "oasst": Format(_tree_demonstrations, _tree_ratings),
    "ultrafeedback": Format(_ultrafeedback_demonstrations, _ultrafeedback_ratings),
    "hh": Format(_hh_demonstrations, _hh_ratings),
}


def check_format(key: str, file: SeedFileConfig) -> None:
    """Raise `ConfigError` for a setting by which the format of a file reads nothing."""
    for field in dataclasses.fields(file):
        value = getattr(file, field.name)
        if field.name in ("path", "format", "held_out") or value == field.default:
            continue
        readers = [name for name, format in FORMATS.items() if field.name in format.settings(key)]
        if file.format not in readers:
            remedy = f"{key}.format={file.format} reads none; leave it out, or use {' or '.join(readers)}"
            raise ConfigError(f"{key}.{field.name}", value, remedy)
