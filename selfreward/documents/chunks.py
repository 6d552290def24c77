"""Documents cut into chunks at the ends of paragraphs and sentences: a small model rephrases a short text better."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[\"'“(\[]?[A-Z0-9])")


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
        separator = "\n\n"
        for sentence in _SENTENCE_END.split(" ".join(paragraph.split())):
            for part in _fitting(sentence, most, count):
                yield part, separator
                separator = " "


def _fitting(sentence: str, most: int, count: Callable[[str], int]) -> list[str]:
    """A sentence in halves, and those in halves, until each fits: between words, or inside a word that is alone."""
    if len(sentence) < 2 or count(sentence) <= most:
        return [sentence]
    words = sentence.split(" ")
    middle = len(words) // 2
    halves = [" ".join(words[:middle]), " ".join(words[middle:])]
    if not middle:
        middle = len(sentence) // 2
        halves = [sentence[:middle], sentence[middle:]]
    return [part for half in halves for part in _fitting(half, most, count)]
