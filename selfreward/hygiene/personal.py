"""Personal data in texts: e-mail addresses, telephone numbers, payment cards, postal addresses (US, UK, Canada).

The patterns are those of datafog-core and pyap. Numbers without a country's prefix are taken for North American ones;
names are not looked for.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from functools import cache
from typing import Any

HOLDS_PERSONAL = "holds personal data"
"""Why a text is left out in which there is some."""

_KINDS = {"EMAIL": "e-mail", "PHONE": "phone", "CREDIT_CARD": "card"}
_DASHES = "\N{HYPHEN}-\N{HORIZONTAL BAR}"
_COUNTRIES = ("US", "GB", "CA")


@dataclass(frozen=True)
class Personal:
    """A piece of a text, and what it is."""

    start: int
    end: int
    kind: str


def find_personal(text: str) -> list[Personal]:
    """What is personal in a text, in its order; pieces don't overlap."""
    import datafog_core
    import pyap

    found = [
        Personal(finding.codepoint_range.start, finding.codepoint_range.end, _KINDS[finding.entity_type])
        for finding in datafog_core.scan(text, {"entities": list(_KINDS)})
    ]
    if any(character.isdigit() for character in text):  # a postal address has a number, and its patterns are slow
        countries = [country for country in _COUNTRIES if country != "GB" or _has_postcode(text)]
        addresses: list[Any] = [one for country in countries for one in pyap.parse(text, country=country)]
        for one in filter(_is_one, addresses):
            found += [Personal(*match.span(), "address") for match in re.finditer(_as_written(str(one)), text)]
    apart: list[Personal] = []
    for piece in sorted(found, key=lambda piece: (piece.start, -piece.end)):
        start = max(piece.start, apart[-1].end) if apart else piece.start
        if start < piece.end:
            apart.append(Personal(start, piece.end, piece.kind))
    return apart


def _is_one(address: Any) -> bool:
    """Whether it has a number, and its state is a word: to pyap "and" is a number, and STEIN ends in Indiana."""
    text, state = str(address), address.region1
    has_number = any(character.isdigit() for character in text)
    return has_number and (not state or re.search(rf"(?<!\w){re.escape(state)}(?!\w)", text) is not None)


def _has_postcode(text: str) -> bool:
    """Whether there can be a British address: each ends in one, and all else of pyap's pattern of them takes long."""
    return _postcode().search(" ".join(text.split())) is not None


@cache
def _postcode() -> re.Pattern[str]:
    from pyap.source_GB.data import postal_code

    return re.compile(postal_code, re.VERBOSE)


def _as_written(address: str) -> str:
    """A pattern of an address as it may stand in the text: pyap tells it, and its places, of a text that it tidied.
    No word is cut: pyap finds postcodes inside of keys."""
    parts = [re.escape(part).replace(r"\-", f"[-{_DASHES}]") for part in re.findall(r"[^\s,]+", address)]
    return r"(?<!\w)" + r"[\s,]+".join(parts) + r"(?!\w)"


def redact(text: str, pieces: list[Personal]) -> str:
    """The text with the name of what it is, in brackets, in the place of each piece."""
    for piece in reversed(pieces):
        text = f"{text[: piece.start]}[{piece.kind}]{text[piece.end :]}"
    return text


def redacted(text: str, counts: Counter[str]) -> str:
    """The text without what is personal, of which `counts` learns how often each kind was there."""
    pieces = find_personal(text)
    counts.update(piece.kind for piece in pieces)
    return redact(text, pieces)
