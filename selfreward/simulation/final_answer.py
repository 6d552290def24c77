"""Problems with one right answer, such as arithmetic word problems: has a text come to it?"""

from __future__ import annotations

import re
from decimal import Decimal

_NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|[-+]?\.\d+")
_STATES = re.compile(r"(?:answer[\s*_]*(?:is|:|=)|####)[\s*_$]*", re.IGNORECASE)
_SENTENCE_END = re.compile(r"[.!?](?!\d)|\n")


def final_answer(solution: str) -> str:
    """What a solution in the form of GSM8K (arXiv 2110.14168) comes to: what follows its last "####", or all."""
    return solution.rsplit("####", 1)[-1].strip()


def holds(text: str, answer: str) -> bool:
    """Whether a text comes to this answer.

    A text states it after "answer is", "answer:" or "####", the last one counts, and of a sum what it comes to; else
    its last number is looked at, or its last line where the answer is no number. Numbers are compared as numbers,
    words without case.
    """
    *before, last = _STATES.split(text)
    wanted = _numbers(answer)
    if len(wanted) == 1 and not re.search(r"[^\W\d]", answer):
        sentence = _SENTENCE_END.split(last, 1)[0].rsplit("=", 1)[-1]
        found = _numbers(sentence)[:1] if before else _numbers(last)[-1:]
        return found == wanted
    lines = last.strip().splitlines() or [""]
    return _plain(lines[0] if before else lines[-1]) == _plain(answer)


def _numbers(text: str) -> list[Decimal]:
    return [Decimal(number.replace(",", "")) for number in _NUMBER.findall(text)]


def _plain(text: str) -> str:
    return " ".join(re.sub(r"[*_`\"']", " ", text).casefold().split()).rstrip(".!")
