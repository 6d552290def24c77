"""A text as people count it: its words, sentences, paragraphs, lines and bullet points, and the numbers in words."""

from __future__ import annotations

import re
import unicodedata

CLOSERS = "\"'”’*_)]"
"""Marks that may stand after the last word."""

_WORD = re.compile(r"[^\W_]+(?:(?:['’-]|(?<=\d)[.,](?=\d))[^\W_]+)*")
_HEADING = re.compile(r"^\s*#+ .*$", re.MULTILINE)
_LINE_MARK = re.compile(r"^\s*(?:\d+[.)]|[-*•])\s+", re.MULTILINE)

_STOP = re.compile(rf"[.!?…]+[{re.escape(CLOSERS)}]*\s+|\n+")
_ABBREVIATION = re.compile(r"\b(?:dr|mr|mrs|ms|st|prof|vs|e\.g|i\.e|(?<!\.)[b-hj-z])\.$", re.IGNORECASE)
"""Titles, initials and the like, with which no sentence ends."""
_QUOTES = "\"'”’"
_FIRST_LETTER = re.compile(r"[^\W\d_]")
_MAY_GO_ON = re.compile(r"(?:\.\.|…|\betc\.|\b[a-z]\.[a-z]\.)$", re.IGNORECASE)
"""What a sentence goes on after, if a small letter follows."""

_ONES = "one|two|three|four|five|six|seven|eight|nine"
_TEENS = "ten|eleven|twelve|thirteen|fourteen|fifteen|sixteen|seventeen|eighteen|nineteen"
_TENS = rf"(?:twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety)(?:[\s-]+(?:{_ONES})\b)?"
_SMALL = rf"(?:{_TENS}|{_TEENS}|{_ONES})\b"
_LARGE = rf"(?:{_SMALL}[\s-]+)?(?:hundred|thousand|million|billion)\b"
_NUMBER = re.compile(rf"\b(?:{_LARGE}(?:[\s-]+{_LARGE})*(?:(?:\s+and\s+|[\s-]+){_SMALL})?|{_SMALL})")


def written_words(text: str) -> list[str]:
    """Runs of letters and digits with what joins them, as they are written."""
    return _WORD.findall(text)


def words(text: str) -> list[str]:
    """The same in lower case."""
    return written_words(text.lower())


def sentences(text: str) -> list[str]:
    """What ends in a full stop, question mark or exclamation mark, or in the end of a line. Headings are none."""
    text = without_line_marks(text).strip()
    parts: list[str] = []
    start = 0
    for stop in _STOP.finditer(text):
        if not _goes_on(text[start : stop.end()], text[stop.end() : stop.end() + 1]):
            parts.append(text[start : stop.end()].strip())
            start = stop.end()
    return [part for part in [*parts, text[start:]] if words(part) and not re.match("#+ ", part)]


def paragraphs(text: str) -> list[str]:
    """What stands between empty lines and has words. Headings are none."""
    return [part for part in re.split(r"\n\s*\n", text.strip()) if words(_HEADING.sub("", part))]


def lines(text: str) -> list[str]:
    """Lines that are not empty."""
    return [line.strip() for line in text.splitlines() if line.strip()]


def bullets(text: str) -> list[str]:
    """Lines that begin with a dash, a star or a bullet."""
    return [line for line in lines(text) if re.match(r"[-*•]\s+\S", line)]


def without_line_marks(text: str) -> str:
    """A text without the numbers and bullets that its lines begin with."""
    return _LINE_MARK.sub("", text)


def numbers_in_words(text: str) -> list[str]:
    """Whole numbers above one that are written as English words."""
    return [number for number in _NUMBER.findall(text.lower()) if number != "one"]


def unaccented(text: str) -> str:
    """A text with each letter as its plain one: in an alphabet they stand together."""
    return "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))


def _goes_on(said: str, follows: str) -> bool:
    """Whether a sentence goes on after a stop."""
    if said.endswith("\n"):
        return False
    is_quoted, is_capital = said.rstrip()[-1] in _QUOTES, _FIRST_LETTER.search(said)
    said = said.rstrip().rstrip(CLOSERS)
    may = _MAY_GO_ON.search(said) or (is_quoted and is_capital and is_capital[0].isupper())  # as in: "Go!" he said.
    return bool(_ABBREVIATION.search(said) or (follows.islower() and may))
