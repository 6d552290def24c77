"""Problems with one right answer, such as arithmetic word problems: has a text come to it?"""

from __future__ import annotations

import re
from decimal import Decimal

_NUMBER = re.compile(r"(?:(?<![\w.)])[-+]\$?)?(?:(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|(?<!\d)\.\d+)")
_MARK = r"####(?=[^\w\n]*[\d.,]+[^\w\n]*\w*[^\w\n]*(?:\n|$))"  # a number alone, or with its unit; else it is a heading
_STATES = re.compile(rf"(?:answer[\s*_]*(?:is\b|:|=)|{_MARK})[\s*_$:=]*", re.IGNORECASE)
_DENIED = re.compile(r"\b(?:is\s+not|isn['\u2019]t)[\s*_$]*(?=[-+\d])[-+]?[\d.,]*\d", re.IGNORECASE)
_GOES_ON = re.compile(r"\s*[-+*/\u00d7\u00f7]\s*\$?\d")
_ENCLOSED = re.compile(r"[(\[]\s*(\w+)\s*[)\]]")
_BRACKETS = re.compile(r"\([^()]*\)")
_ALONE = re.compile(rf"[\s:*]*\$?{_NUMBER.pattern}[\s*]*")
_SENTENCE_END = re.compile(r"[.!?](?!\s?\d)|\n")
_MINUS = "\N{MINUS SIGN}"


def final_answer(solution: str) -> str:
    """What a solution in the form of GSM8K (arXiv 2110.14168) comes to: what follows its last "####", or all."""
    return solution.rsplit("####", 1)[-1].strip()


def states(text: str) -> bool:
    """Whether a text says of something that it is the answer."""
    return _STATES.search(text) is not None


def holds(text: str, answer: str) -> bool:
    """Whether a text comes to this answer.

    A text states it after "answer is", "answer:" or "####": of a number the last such place where one follows counts,
    and of a sum what it comes to: one that is left open comes to nothing. Else its last number is looked at, or its
    last line where the answer is no number. What a text says that it is not does not count. Numbers are compared as
    numbers, words without case.
    """
    stated = _STATES.split(text := _DENIED.sub("", text))
    wanted = _numbers(answer)
    if len(wanted) == 1 and not re.search(r"[^\W\d]", answer):
        found = [number for part in stated[1:] for number in _first_number(_conclusion(part))]
        return (found or _numbers(text))[-1:] == wanted
    lines = stated[-1].strip().splitlines() or [""]
    said = _plain(lines[0] if stated[1:] else lines[-1])
    return said != "" and said == _plain(answer)


def _conclusion(stated: str) -> str:
    """The first sentence without what it says in brackets, or of a sum in it what it comes to: `6 * 7 = 42`. A number
    that stands alone before the sign is no sum, but what the text says: `42 = 6 * 7`."""
    sentence = _SENTENCE_END.split(stated, maxsplit=1)[0]
    if _NUMBER.search(outside := _BRACKETS.sub("", sentence)):
        sentence = outside
    parts = sentence.split("=")
    return parts[0] if _ALONE.fullmatch(parts[0]) else parts[-1]


def _first_number(text: str) -> list[Decimal | None]:
    """The first number, where there is one; None for one with which a sum begins."""
    text = text.replace(_MINUS, "-")
    if not (first := _NUMBER.search(text)):
        return []
    return [None if _GOES_ON.match(text, first.end()) else _numbers(first[0])[0]]


def _numbers(text: str) -> list[Decimal]:
    return [Decimal(re.sub(r"[,$]", "", number)) for number in _NUMBER.findall(text.replace(_MINUS, "-"))]


def _plain(text: str) -> str:
    plain = " ".join(re.sub(r"[*_`\"']", " ", text).casefold().split()).rstrip(".! ").lstrip("# ")
    enclosed = _ENCLOSED.fullmatch(plain)  # "(B)", but of an interval the brackets say something
    return enclosed[1] if enclosed else plain
