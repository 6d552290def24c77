"""Problems with one right answer, such as arithmetic word problems: has a text come to it?"""

from __future__ import annotations

import re
from decimal import Decimal

_NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|[-+]?\.\d+")
_STATED = re.compile(r"(?:answer\s*(?:is|:|=)|####)[\s*_$]*([^\n]+)", re.IGNORECASE)


def final_answer(solution: str) -> str:
    """What a solution in the form of GSM8K (arXiv 2110.14168) comes to: the text after its last "####", or all of it."""
    return solution.rsplit("####", 1)[-1].strip()


def holds(text: str, answer: str) -> bool:
    """Whether a text comes to this answer.

    A text states it after "answer is", "answer:" or "####", the last one counts; else its last number is looked at where
    the answer is a number, and its last line where it is not. Numbers are compared as numbers, words without case.
    """
    stated = _STATED.findall(text)
    wanted = _numbers(answer)
    if len(wanted) == 1 and not re.search(r"[^\W\d]", answer):
        found = _numbers(stated[-1])[:1] if stated else _numbers(text)[-1:]
        return found == wanted
    lines = text.strip().splitlines() or [""]
    return _plain(stated[-1] if stated else lines[-1]) == _plain(answer)


def _numbers(text: str) -> list[Decimal]:
    return [Decimal(number.replace(",", "")) for number in _NUMBER.findall(text)]


def _plain(text: str) -> str:
    return " ".join(re.sub(r"[*_`\"']", " ", text).casefold().split()).rstrip(".!")
