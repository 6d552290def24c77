"""What a pairing rule is: a pure function from the scored candidates of one prompt to the pair they make, if any."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from selfreward.records import Candidate


@dataclass(frozen=True)
class Scored:
    """A candidate and the score that a judge gave it."""

    candidate: Candidate
    score: float


@dataclass(frozen=True)
class Chosen:
    """The two candidates of a pair."""

    chosen: Scored
    rejected: Scored


Pairing = Callable[[Sequence[Scored], float], Chosen | None]
"""From the scored candidates of one prompt, and the margin by which scores must differ, to a pair, or None: a tie."""
