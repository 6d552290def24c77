"""Documents cut into chunks at the ends of paragraphs and sentences: a small model rephrases a short text better."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

_SENTENCE_END = re.compile(r"((?<=[.!?])\s+(?=[\"'“(\[]?[A-Z0-9])|(?<=[。！？])(?![」』”）])\s?(?=.))")
"""What stands between two sentences; in Chinese and Japanese that is nothing."""


def cut_document(text: str, most: int, count: Callable[[str], int]) -> list[str]:
    """A text in chunks of at most `most` tokens by `count`, each as long as sentences allow. Nothing but white space is
    lost; paragraphs stay apart by an empty line."""
    chunks: list[str] = []
    chunk = ""
    for piece, separator in _pieces(text, most, count):
        longer = f"{chunk}{separator}{piece}" if chunk else piece
        if chunk and count(longer) > most:
            chunks.append(chunk)
            longer = piece
        chunk = longer
    return [*chunks, chunk] if chunk else chunks


def _pieces(text: str, most: int, count: Callable[[str], int]) -> Iterator[tuple[str, str]]:
    """Sentences, or parts of those that are too long, each with what stands between it and the one before it."""
    for paragraph in re.split(r"\n\s*\n", text.strip()):
        first, *others = _SENTENCE_END.split(" ".join(paragraph.split()))
        yield from _fitting(first, "\n\n", most, count)
        for separator, sentence in zip(others[::2], others[1::2], strict=True):
            yield from _fitting(sentence, separator, most, count)


def _fitting(sentence: str, separator: str, most: int, count: Callable[[str], int]) -> Iterator[tuple[str, str]]:
    """A sentence in halves, and those in halves, until each fits: between words, or inside a word that is alone."""
    if len(sentence) < 2 or count(sentence) <= most:
        yield sentence, separator
        return
    words = sentence.split(" ")
    middle, between = len(words) // 2, " "
    halves = [" ".join(words[:middle]), " ".join(words[middle:])]
    if not middle:
        middle, between = len(sentence) // 2, ""
        halves = [sentence[:middle], sentence[middle:]]
    yield from _fitting(halves[0], separator, most, count)
    yield from _fitting(halves[1], between, most, count)
