"""The language of a text, by py3langid (Lui and Baldwin 2012), whose model comes with the package."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from functools import cache
from typing import Any

UNKNOWN = ""
_LEAST_LETTERS = 20  # fewer are guessed at
_LEAST_PROBABILITY = 0.6  # below, a short request is as often English as what it is taken for
_UNDECIDED = "und"  # py3langid's word for it


def language(text: str) -> str:
    """The code of the likeliest language (ISO 639), or `UNKNOWN` for a text with few letters, or of no clear one."""
    if sum(character.isalpha() for character in text) < _LEAST_LETTERS:
        return UNKNOWN
    code = str(_identifier().classify(text)[0])
    return UNKNOWN if code == _UNDECIDED else code


def languages_of(texts: Iterable[str]) -> dict[str, int]:
    """How many texts are in each language, the most frequent first; "unknown" is one of them."""
    return dict(Counter(language(text) or "unknown" for text in texts).most_common())


def languages() -> list[str]:
    """The codes of the languages that can be told."""
    return list(_identifier().labels)


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True, min_confidence=_LEAST_PROBABILITY)
