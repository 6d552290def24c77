"""Which of the prompts that a policy wrote are kept, as in Self-Instruct (arXiv 2212.10560, section 2.2)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

from selfreward.config import GenerationConfig
from selfreward.hygiene.language import UNKNOWN, language
from selfreward.hygiene.similar import LETTER_AS_WORD, SimilarTexts

REASONS = (
    "is empty",
    "is cut off",
    "begins with a mark",
    "has too few words",
    "has too many words",
    "has a keyword",
    "is in another language",
    "echoes what was shown",
    "is there already",
    "is a near duplicate",
    "is close to another",
)
"""Why a prompt is left out, in the order that is looked at."""


_UNSPACED = re.compile(f"[{LETTER_AS_WORD}]")
_WORD = re.compile(rf"[{LETTER_AS_WORD}]|[^\W_{LETTER_AS_WORD}]+")


class PromptFilter:
    """Looks at one prompt after the other and keeps those that are new.

    Args:
        cfg: the limits.
        known: prompts that none may repeat; every prompt that is kept becomes one.
        echo: the ROUGE-L from which on a prompt echoes what was shown; None: that of `cfg.most_rouge`.
    """

    def __init__(self, cfg: GenerationConfig, known: Iterable[str], echo: float | None) -> None:
        self._cfg = cfg
        self._echo = cfg.most_rouge if echo is None else echo
        self._lets_shown_pass = echo is not None
        self._keywords = re.compile(
            "|".join(rf"\b{re.escape(word.strip())}\b" for word in cfg.keywords.split(",") if word.strip()) or r"(?!)",
            re.IGNORECASE,
        )
        self._similar = SimilarTexts(cfg.resemblance)
        self._known: dict[str, None] = {}
        for text in known:
            self._add(text)

    def reason_against(self, text: str, shown: Sequence[str], *, finished: bool) -> str | None:
        """One of `REASONS`; None for a prompt that is kept."""
        cfg, words = self._cfg, text.split()
        if not words:
            return "is empty"
        if not finished:
            return "is cut off"
        if not text[0].isalnum() and text[0] not in "\"'(¿¡":
            return "begins with a mark"
        length = len(words) + len(_UNSPACED.findall(text))
        if length < cfg.least_words:
            return "has too few words"
        if length > cfg.most_words:
            return "has too many words"
        if self._keywords.search(text):
            return "has a keyword"
        if cfg.language and language(text) not in (cfg.language, UNKNOWN):
            return "is in another language"
        if closest(text, shown)[0] >= self._echo:
            return "echoes what was shown"
        return self._repeats(text, shown)

    def _repeats(self, text: str, shown: Sequence[str]) -> str | None:
        if _plain(text) in self._known:
            return "is there already"
        others = self._known if not self._lets_shown_pass else self._known.keys() - {_plain(one) for one in shown}
        nearest = self._similar.nearest(text)
        if nearest and nearest[0] in others:
            return "is a near duplicate"
        if closest(text, others)[0] >= self._cfg.most_rouge:
            return "is close to another"
        self._add(text)
        return None

    def _add(self, text: str) -> None:
        if _plain(text) not in self._known:
            self._known[_plain(text)] = None
            self._similar.add(_plain(text), text)


def closest(text: str, others: Iterable[str]) -> tuple[float, str]:
    """The greatest ROUGE-L (its F-measure, Lin 2004) of a text with any of the others, and which; 0 without others."""
    own = tokens(text)
    # No more tokens can be in common in one order than in any; most others are passed over by that alone.
    bounds = sorted(((_bound(own, tokens(other)), other) for other in others), reverse=True)
    best, found = 0.0, ""
    for bound, other in bounds:
        if bound <= best:
            break
        score = _scorer().score(other, text)["rougeL"].fmeasure
        if score > best:
            best, found = score, other
    return best, found


class _Words:
    """What `rouge_score` asks for its words. Its own tokenizer knows no letters but those of English."""

    def tokenize(self, text: str) -> list[str]:
        return _WORD.findall(text.lower())


@cache
def tokens(text: str) -> Counter[str]:
    """The words that ROUGE counts, each with how often it comes."""
    return Counter(_Words().tokenize(text))


def _bound(own: Counter[str], other: Counter[str]) -> float:
    total = own.total() + other.total()
    return 2 * (own & other).total() / total if total else 0.0


@cache
def _scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], tokenizer=_Words())


def _plain(text: str) -> str:
    return " ".join(text.lower().split())
