"""Texts that resemble each other: found by MinHash (Broder 1997) over triples of words, then counted exactly."""

from __future__ import annotations

import re
from collections.abc import Sequence

from datasketch import MinHash, MinHashLSH

_PERMUTATIONS = 128
_CAUTION = 0.75
"""Of the threshold: the index estimates, and what it does not find is not looked at again."""


LETTER_AS_WORD = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
"""Letters of Thai, Lao, Burmese, Khmer, Japanese and Chinese, which put no spaces between words: each counts as one."""

UNSPACED = re.compile(f"[{LETTER_AS_WORD}]")
"""One of them."""

_HAN = re.compile("[\u3400-\u9fff\uf900-\ufaff]")
_MARKS = "\u0300-\u036f\u0591-\u05c7\u0610-\u061a\u064b-\u065f\u0670\u0900-\u0963\u0966-\u0dff"
"""Accents and vowel signs of their own, with the letters of the scripts of India: they are inside words."""

_LINE_MARK = re.compile(r"^\s*(?:[-*+>#]+\s+)+", re.MULTILINE)
_WORD = re.compile(
    rf"[{LETTER_AS_WORD}]|(?:(?![{LETTER_AS_WORD}])[\w{_MARKS}])+"
    r"|(?<=\w)[#+]+"  # C++, 8+4
    r"|[=<>^×÷−]"
    r"|(?<![^\W\d_])(?<!\*)[-+*/](?![^\W\d_]|\*)"  # of a sum, not of a compound or of bold letters
)


def words(text: str) -> list[str]:
    """A text's words, in small letters, and the signs that say something in a sum or in a name like "C++"; without
    punctuation and the marks of Markdown. A text that has neither is what stands between its spaces."""
    text = _LINE_MARK.sub("", text.lower())
    return _WORD.findall(text) or text.split()


def length_in_words(found: Sequence[str]) -> float:
    """How long `words` are, by what they say: of letters that each count as one, two of Chinese or four others make one
    of another language."""
    return sum(1 if not UNSPACED.match(word) else 0.5 if _HAN.match(word) else 0.25 for word in found)


def triples(text: str) -> frozenset[str]:
    """Three neighbouring words each; a shorter text is one piece."""
    found = words(text)
    return frozenset(" ".join(found[start : start + 3]) for start in range(max(len(found) - 2, 1)))


def resemblance(one: frozenset[str], other: frozenset[str]) -> float:
    """The Jaccard similarity of two texts' triples, 0 to 1."""
    return len(one & other) / len(one | other)


class SimilarTexts:
    """Texts by key, among which those are found that resemble another one.

    Args:
        threshold: the resemblance from which on two texts count as near duplicates.
    """

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._index = MinHashLSH(threshold=_CAUTION * threshold, num_perm=_PERMUTATIONS)
        self._triples: dict[str, frozenset[str]] = {}

    def add(self, key: str, text: str) -> None:
        """Put a text in. Its key must be new."""
        self._triples[key] = triples(text)
        self._index.insert(key, _hashed(self._triples[key]))

    def nearest(self, text: str) -> tuple[str, float] | None:
        """The key of the text that resembles this one most, and how much; None where none does as much as it takes."""
        own = triples(text)
        alike = {str(key): resemblance(own, self._triples[str(key)]) for key in self._index.query(_hashed(own))}
        best = max(sorted(alike), key=alike.__getitem__, default=None)
        return None if best is None or alike[best] < self._threshold else (best, alike[best])


def _hashed(pieces: frozenset[str]) -> MinHash:
    hashed = MinHash(num_perm=_PERMUTATIONS)
    hashed.update_batch([piece.encode() for piece in sorted(pieces)])
    return hashed
