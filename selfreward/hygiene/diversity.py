"""How much texts differ from each other."""

from __future__ import annotations

import random
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from selfreward.hygiene.language import languages_of
from selfreward.hygiene.similar import UNSPACED, words

_MOST_COMPARED = 100
"""Self-BLEU takes the square of the number of texts: of more, so many are drawn."""


def distinct_n(texts: Sequence[str], n: int) -> float:
    """Distinct n-grams of words over all n-grams (Li et al., arXiv 1510.03055); 0 where there is none."""
    grams = [tuple(found[i : i + n]) for found in map(in_words, texts) for i in range(len(found) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 0.0


def variety(texts: Sequence[str]) -> dict[str, Any]:
    """What texts are like, as data cards show it: their languages, words on average, and distinct n-grams."""
    return {
        "languages": languages_of(texts),
        "mean_words": fmean(len(in_words(text)) for text in texts) if texts else None,
        "distinct_1": distinct_n(texts, 1),
        "distinct_2": distinct_n(texts, 2),
    }


def self_bleu(texts: Sequence[str]) -> float:
    """How well each text is made of runs of words from the others, 0 to 1 (Self-BLEU, arXiv 1802.01886).

    The mean of each text's BLEU against all others, smoothed by a tenth of a match (Chen and Cherry 2014, technique 1).
    0 for fewer than two texts.
    """
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu  # takes half a second

    drawn = list(texts) if len(texts) <= _MOST_COMPARED else random.Random(0).sample(list(texts), _MOST_COMPARED)
    split = [*map(in_words, drawn)]
    if len(split) < 2:
        return 0.0
    smooth = SmoothingFunction(epsilon=0.1).method1
    scores = [
        sentence_bleu([*split[:own], *split[own + 1 :]], split[own], smoothing_function=smooth)
        for own in range(len(split))
    ]
    return fmean(float(score) for score in scores)  # pyright: ignore[reportArgumentType]


def in_words(text: str) -> list[str]:
    """What stands between spaces; of a script without any, its letters."""
    return words(text) if UNSPACED.search(text) else text.split()
