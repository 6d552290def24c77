"""Problems with one right answer, such as arithmetic word problems: has a text come to it?"""

from __future__ import annotations

import re
from decimal import Decimal

_NUMBER = re.compile(r"(?:(?<![\w.)])[-+]\$?)?(?:(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|(?<!\d)\.\d+)")
_STATES = re.compile(r"(?:answer[\s*_]*(?:is|:|=)|####)[\s*_$:=]*", re.IGNORECASE)
_SENTENCE_END = re.compile(r"[.!?](?!\s?\d)|\n")
_MINUS = "\N{MINUS SIGN}"


def final_answer(solution: str) -> str:
    """What a solution in the form of GSM8K (arXiv 2110.14168) comes to: what follows its last "####", or all."""
    return solution.rsplit("####", 1)[-1].strip()


def holds(text: str, answer: str) -> bool:
    """Whether a text comes to this answer.

    A text states it after "answer is", "answer:" or "####": of a number the last such place where one follows counts,
    and of a sum what it comes to. Else its last number is looked at, or its last line where the answer is no number.
    Numbers are compared as numbers, words without case.
    """
    stated = _STATES.split(text)
    wanted = _numbers(answer)
    if len(wanted) == 1 and not re.search(r"[^\W\d]", answer):
        found = [numbers[0] for part in stated[1:] if (numbers := _numbers(_conclusion(part)))]
        return (found or _numbers(text))[-1:] == wanted
    lines = stated[-1].strip().splitlines() or [""]
    said = _plain(lines[0] if stated[1:] else lines[-1])
    return said != "" and said == _plain(answer)


def _conclusion(stated: str) -> str:
    """The first sentence, or of a sum in it what it comes to."""
    return _SENTENCE_END.split(stated, maxsplit=1)[0].rsplit("=", 1)[-1]


def _numbers(text: str) -> list[Decimal]:
    return [Decimal(re.sub(r"[,$]", "", number)) for number in _NUMBER.findall(text.replace(_MINUS, "-"))]


def _plain(text: str) -> str:
    return " ".join(re.sub(r"[*_`\"'()\[\]]", " ", text).casefold().split()).rstrip(".! ")
