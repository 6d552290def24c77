"""A text in other words: four styles as in WRAP (arXiv 2401.16380, section 3), and which rephrasings are used."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from selfreward.config import listed_among
from selfreward.generation.filters import greatest_rouge_l, rouge_words
from selfreward.texts import fill, read_text

STYLES = {name: read_text(__file__, f"{name}.txt") for name in ("easy", "medium", "hard", "question_answer")}
"""What is asked for each style."""

_COPY = 0.9  # ROUGE-L with the text
_SHORTEST, _LONGEST = 0.2, 3.0  # words over those of the text
_BEGIN = re.compile(r"^[ \t*_#]*\[text\](?!\()(?:[*_]+(?=\s|$))?[ \t:]*", re.I | re.M)  # as in the request
_END = re.compile(r"[ \t*_#]*\[end of text\][ \t*_.]*$", re.I | re.M)
_COURTESY = re.compile(
    r"^(?:sure|certainly|of course|okay|ok)\b(?:[^\n:]*:\s*\n+|[!.]\s+|(?: thing)?[,!.]\s+(?=here\b|this is\b))", re.I
)
_ANNOUNCED = re.compile(
    r"^(?:here(?:['’]s| is| are)|this is|(?:the )?(?:rephrased|rewritten))\b"
    r"(?:[^\n:]*:\s*\n+|[^\n:]*\b(?:text|version|passage)[*_\"]*:\s*)",
    re.I,
)
_CLOSING = re.compile(r"\n+(?:I hope|Let me know|Please let me|Feel free|Is there anything)\b[^\n]*\s*$", re.I)
_QUESTION = re.compile(r"^\W*(?:question|q)\s*\d*\s*[:.][\s*_]*(?!\W*answer\b)(?P<text>\S.*?)\s*$", re.I | re.M)
_ANSWER = re.compile(r"[\s*_]*\banswer\s*:", re.I)
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_LIST_MARK = re.compile(r"^\s*\d+[.)]\s", re.M)  # a number, but none of what the text says
_NAME = re.compile(r"(?:(?<=[^\W\d_A-Z] )|(?<=[,;] ))[A-Z][^\W\d_]+(?: [A-Z][^\W\d_]+)*")


@dataclass(frozen=True)
class Kept:
    """The shares of a text's numbers and names that its rephrasing has too; None where the text has none."""

    numbers: float | None
    names: float | None


def styles(names: str) -> list[str]:
    """Styles by their names, joined by commas. Raises `ConfigError` for one that isn't there, or none."""
    return listed_among(STYLES, "documents.styles", names)


def build_message(text: str, style: str) -> str:
    """What a policy is asked."""
    return fill(STYLES[style], text=text)


def clean(reply: str) -> str:
    """What a policy wrote, without words to the person who asked and the request's own marks."""
    until = next((part for part in _END.split(reply) if part.strip()), "")
    marked = next((part for part in reversed(_BEGIN.split(until)) if part.strip()), "")
    text = _ANNOUNCED.sub("", _COURTESY.sub("", marked.strip()))
    return _CLOSING.sub("", text).strip()


def reason_against(text: str, rephrased: str, style: str, *, finished: bool) -> str | None:
    """Why a rephrasing is not used; None for one that is."""
    share = rouge_words(rephrased).total() / max(rouge_words(text).total(), 1)
    if not rephrased:
        return "is empty"
    if not finished:
        return "is cut off"
    if share < _SHORTEST:
        return "is too short"
    if share > _LONGEST:
        return "is too long"
    if style == "question_answer" and not questions(rephrased):
        return "asks no question"
    if greatest_rouge_l(rephrased, [text]) >= _COPY:
        return "copies the text"
    return None


def questions(rephrased: str) -> list[str]:
    """The questions in a text of questions and answers, without answers that stand on the same line."""
    return [_ANSWER.split(match["text"], 1)[0].rstrip("*_ ") for match in _QUESTION.finditer(rephrased)]


def kept(text: str, rephrased: str) -> Kept:
    """How many of a text's numbers and names came through. Names are capitalised words inside a sentence."""
    text, rephrased = (_LIST_MARK.sub("", one) for one in (text, rephrased))
    there = {*_NUMBER.findall(rephrased)}
    numbers = _share(_NUMBER.findall(text), lambda number: number in there)
    names = _share(_NAME.findall(text), lambda name: re.search(rf"\b{re.escape(name)}\b", rephrased) is not None)
    return Kept(numbers, names)


def _share(wanted: Iterable[str], is_there: Callable[[str], bool]) -> float | None:
    found = [is_there(one) for one in {*wanted}]
    return sum(found) / len(found) if found else None
