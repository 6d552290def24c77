"""Texts to learn from that hold what a policy is evaluated on.

A text is contaminated where it shares a run of words with an evaluation's text, as GPT-3 was checked with runs of 13
(arXiv 2005.14165, appendix C), or resembles it as a whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from selfreward.hygiene.similar import SimilarTexts, length_in_words, words

_LEAST_WORDS = 5
"""An evaluation's text of fewer words says too little inside another one; equal texts count at any length."""


@dataclass(frozen=True)
class Leak:
    """What a text shares with an evaluation: both, the name of the evaluation, and how they are alike."""

    text: str
    evaluation: str
    evaluated: str
    how: str


def find_leaks(
    texts: Mapping[str, str], evaluations: Mapping[str, Iterable[str]], run: int | None, threshold: float | None
) -> dict[str, Leak]:
    """The contaminated texts by their keys.

    Args:
        texts: what is to be learned from, by any key.
        evaluations: texts of each evaluation, by its name.
        run: words in a row that make a leak, by `length_in_words`; a shorter text counts as a whole. None: equal texts
            alone do.
        threshold: the resemblance that makes one. None: it is not looked at.
    """
    known: dict[tuple[str, ...], tuple[str, str]] = {}
    whole: dict[tuple[str, ...], tuple[str, str]] = {}
    similar = SimilarTexts(threshold) if threshold is not None else None
    by_key: dict[str, tuple[str, str]] = {}
    for name, evaluated in evaluations.items():
        for text in evaluated:
            found = tuple(words(text))
            whole.setdefault(found, (name, text))
            if run is not None and (length := length_in_words(found)) >= _LEAST_WORDS:
                for piece in _runs(found, min(round(run * len(found) / length), len(found))):
                    known.setdefault(piece, (name, text))
            if similar:
                key = str(len(by_key))
                by_key[key] = (name, text)
                similar.add(key, text)
    lengths = sorted({len(piece) for piece in known}, reverse=True)
    leaks: dict[str, Leak] = {}
    for place, text in texts.items():
        found = tuple(words(text))
        shared = next((piece for length in lengths for piece in _runs(found, length) if piece in known), None)
        if found in whole:
            leaks[place] = Leak(text, *whole[found], "is the same text")
        elif shared is not None:
            leaks[place] = Leak(text, *known[shared], f'shares "{" ".join(shared)}"')
        elif similar and (nearest := similar.nearest(text)):
            key, share = nearest
            leaks[place] = Leak(text, *by_key[key], f"shares {share:.0%} of its word triples")
    return leaks


def complaint(leaks: Mapping[str, Leak], count: int, what: str) -> str | None:
    """One line about leaks among `count` of what is to be learned from, which `what` says in the plural, with the first
    of them and the remedy; None where there are none."""
    if not leaks:
        return None
    first = next(iter(leaks.values()))
    return (
        f'{len(leaks)} of {count} {what} are in an evaluation: "{_short(first.text)}" {first.how} with '
        f'"{_short(first.evaluated)}" of {first.evaluation}; take them out, or set gate.contamination=drop'
    )


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 80 else f"{line[:79]}…"


def _runs(found: tuple[str, ...], length: int) -> Iterator[tuple[str, ...]]:
    return (found[start : start + length] for start in range(len(found) - length + 1))
