"""Which of the prompts that a policy wrote are kept, as in Self-Instruct (arXiv 2212.10560, section 2.2)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

from selfreward.config import GenerationConfig, listed
from selfreward.hygiene.language import UNKNOWN, language
from selfreward.hygiene.similar import LETTER_AS_WORD, UNSPACED, SimilarTexts
from selfreward.rows import THERE_ALREADY

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
        self._keywords = re.compile("|".join(map(_whole, listed(cfg.keywords))) or r"(?!)", re.IGNORECASE)
        self._similar = SimilarTexts(cfg.resemblance)
        self._known: dict[str, None] = {}
        for text in known:
            self._add(text)

    def reason_against(self, text: str, shown: Sequence[str], *, finished: bool) -> str | None:
        """Why a prompt is left out, in words that end a sentence about it; None for one that is kept."""
        cfg = self._cfg
        if not text.strip():
            return "is empty"
        if not finished:
            return "is cut off"
        if not text[0].isalnum() and text[0] not in "\"'(¿¡“‘«„「『《":
            return "begins with a mark"
        if count_words(text) < cfg.least_words:
            return "has too few words"
        if count_words(text) > cfg.most_words:
            return "has too many words"
        if self._keywords.search(text):
            return "has a keyword"
        if cfg.language and language(text) not in (cfg.language, UNKNOWN):
            return "is in another language"
        if greatest_rouge_l(text, shown) >= self._echo:
            return "echoes what was shown"
        return self._repeats(text, shown)

    def _repeats(self, text: str, shown: Sequence[str]) -> str | None:
        if _plain(text) in self._known:
            return THERE_ALREADY
        others = self._known if not self._lets_shown_pass else self._known.keys() - {_plain(one) for one in shown}
        nearest = self._similar.nearest(text)
        if nearest and nearest[0] in others:
            return "is a near duplicate"
        if greatest_rouge_l(text, others) >= self._cfg.most_rouge:
            return "is close to another"
        self._add(text)
        return None

    def _add(self, text: str) -> None:
        if _plain(text) not in self._known:
            self._known[_plain(text)] = None
            self._similar.add(_plain(text), text)


def count_words(text: str) -> int:
    """Words of a text; in scripts without spaces between them each letter is one."""
    return len(UNSPACED.sub(" ", text).split()) + len(UNSPACED.findall(text))


def greatest_rouge_l(text: str, others: Iterable[str]) -> float:
    """The greatest ROUGE-L (its F-measure, Lin 2004) of a text with any of the others; 0 without others."""
    own = rouge_words(text)
    # No more words can be in common in one order than in any; most others are passed over by that alone.
    bounds = sorted(((_bound(own, rouge_words(other)), other) for other in others), reverse=True)
    greatest = 0.0
    for bound, other in bounds:
        if bound <= greatest:
            break
        greatest = max(greatest, _scorer().score(other, text)["rougeL"].fmeasure)
    return greatest


class _Words:
    """What `rouge_score` asks for its words. Its own tokenizer knows no letters but those of English."""

    def tokenize(self, text: str) -> list[str]:
        return _WORD.findall(text.lower())


@cache
def rouge_words(text: str) -> Counter[str]:
    """The words that ROUGE counts, each with how often it comes."""
    return Counter(_Words().tokenize(text))


def _bound(own: Counter[str], other: Counter[str]) -> float:
    total = own.total() + other.total()
    return 2 * (own & other).total() / total if total else 0.0


@cache
def _scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], tokenizer=_Words())


def _whole(keyword: str) -> str:
    """A pattern of a keyword as a word of its own, where its script has spaces between words."""
    return re.escape(keyword) if UNSPACED.search(keyword) else rf"(?<!\w){re.escape(keyword)}(?!\w)"


def _plain(text: str) -> str:
    return " ".join(text.lower().split())
