"""What code can hold an answer against: checks that travel with a prompt, as text in its record."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from selfreward.simulation import final_answer, reasoning
from selfreward.simulation.constraints import KINDS, Parameters


@dataclass(frozen=True)
class Check:
    """What is checked, a key of `CHECKS`, and with what."""

    kind: str
    parameters: Parameters


def _constraint(kind: str) -> Callable[[str, Parameters], float]:
    return lambda text, parameters: float(KINDS[kind].holds(text, parameters))


CHECKS: Mapping[str, Callable[[str, Parameters], float]] = {
    **{kind: _constraint(kind) for kind in KINDS},
    "final_answer": lambda text, parameters: float(final_answer.holds(text, **parameters)),
    "reasoning": lambda text, parameters: reasoning.score(text, **parameters),
}
"""From a text and a check's parameters to how well it passes, 0 to 1."""


def scores(text: str, checks: Sequence[Check], *, finished: bool = True) -> list[float]:
    """How well an answer passes each check, 0 to 1. One that is not `finished` has come to a final answer only where it
    states one: its last number is one on the way."""
    open_end = not finished and not final_answer.states(text)
    return [
        0.0 if open_end and check.kind == "final_answer" else CHECKS[check.kind](text, check.parameters)
        for check in checks
    ]


def passes(text: str, checks: Sequence[Check], *, finished: bool) -> bool:
    """Whether an answer passes all of them."""
    return all(score == 1 for score in scores(text, checks, finished=finished))


def dump(checks: Sequence[Check]) -> str:
    """Checks as text, for a record."""
    return json.dumps([[check.kind, check.parameters] for check in checks])


def load(text: str) -> list[Check]:
    """What `dump` wrote."""
    return [Check(kind, parameters) for kind, parameters in json.loads(text)]
