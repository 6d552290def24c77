"""The best candidate against the worst, as in Self-Rewarding Language Models (arXiv 2401.10020, section 2.3)."""

from __future__ import annotations

from collections.abc import Sequence

from selfreward.pairing.base import Chosen, Scored


def pair(scored: Sequence[Scored], margin: float) -> Chosen | None:
    """The pair, or None where the two scores differ by no more than `margin`. Of equal scores the first counts."""
    best = max(scored, key=lambda item: item.score)
    worst = min(scored, key=lambda item: item.score)
    if best.score - worst.score <= margin:
        return None
    return Chosen(best, worst)
