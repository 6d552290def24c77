"""The language of a text, by py3langid (Lui and Baldwin 2012), whose model comes with the package."""

from __future__ import annotations

from functools import cache
from typing import Any

UNKNOWN = ""
_LEAST_LETTERS = 20  # fewer are guessed at


def language(text: str) -> str:
    """The code of the likeliest language (ISO 639-1), or `UNKNOWN` for a text with few letters."""
    if sum(character.isalpha() for character in text) < _LEAST_LETTERS:
        return UNKNOWN
    return str(_identifier().classify(text)[0])


@cache
def _identifier() -> Any:
    import py3langid

    return py3langid
