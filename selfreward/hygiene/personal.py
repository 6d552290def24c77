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

ONCE_REDACTED = "is there already, once redacted"
"""Why a text is left out that was another before."""

_KINDS = {"EMAIL": "e-mail", "PHONE": "phone", "CREDIT_CARD": "card"}
_DASHES = "\N{HYPHEN}-\N{HORIZONTAL BAR}"
_COUNTRIES = ("US", "GB", "CA")
_CALLED = re.compile(r"\b(?:call|phone|telephone|tel|mobile|cell|fax|dial|number)\b[^\n\d]*$", re.IGNORECASE)


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
        if finding.entity_type != "PHONE" or _is_phone(text, finding.codepoint_range)
    ]
    if any(character.isdigit() for character in text):  # a postal address has a number, and its patterns are slow
        countries = [country for country in _COUNTRIES if country != "GB" or _has_postcode(text)]
        addresses: list[Any] = [one for country in countries for one in pyap.parse(text, country=country)]
        for one in filter(_is_one, addresses):
            found += [Personal(*match.span(), "address") for match in re.finditer(_as_written(one), text)]
    apart: list[Personal] = []
    for piece in sorted(found, key=lambda piece: (piece.start, -piece.end)):
        start = max(piece.start, apart[-1].end) if apart else piece.start
        if start < piece.end:
            apart.append(Personal(start, piece.end, piece.kind))
    return apart


def _is_phone(text: str, place: Any) -> bool:
    """Whether ten digits are a telephone number and not three others in a row, or one: by how they are written, or by
    what stands before them."""
    said = text[place.start : place.end]
    if "\n" in said:
        return False
    return bool(re.search(r"[-+().]", said) or _CALLED.search(text[max(place.start - 40, 0) : place.start]))


def _is_one(address: Any) -> bool:
    """Whether it has a number, and a postal code or a state that is a word: to pyap "and" is a number, and STEIN ends
    in Indiana."""
    text, state = str(address), address.region1
    if not any(character.isdigit() for character in text):
        return False
    return bool(address.postal_code or not state or re.search(rf"(?<!\w){re.escape(state)}(?!\w)", text))


def _has_postcode(text: str) -> bool:
    """Whether there can be a British address: each ends in one, and all else of pyap's pattern of them takes long."""
    return _postcode().search(" ".join(text.split())) is not None


@cache
def _postcode() -> re.Pattern[str]:
    from pyap.source_GB.data import postal_code

    return re.compile(postal_code, re.VERBOSE)


def _as_written(address: Any) -> str:
    """A pattern of an address as it may stand in the text: pyap tells it, and its places, of a text that it tidied.

    pyap cuts words. One that it begins in is part of the address, and so are the rest of a state (CA of CALIFORNIA) and
    what follows that; but a postal code inside of a longer word is none.
    """
    parts = [re.escape(part).replace(r"\-", f"[-{_DASHES}]") for part in re.findall(r"[^\s,]+", str(address))]
    end = r"(?!\w)" if address.postal_code else r"[^\W\d]*(?:[\s,]+\d{5}(?:-\d{4})?)?(?!\w)"
    return r"\w*" + r"[\s,]+".join(parts) + end


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
