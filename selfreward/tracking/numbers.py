"""Numbers as people read them; a dash for what was not measured."""

from __future__ import annotations

NOT_MEASURED = "\N{EN DASH}"


def percent(share: float | None, digits: int = 0) -> str:
    """A share of 1 as a percentage."""
    return NOT_MEASURED if share is None else f"{100 * share:.{digits}f} %"


def decimal(value: float | None, digits: int = 2) -> str:
    """A number to so many decimals."""
    return NOT_MEASURED if value is None else f"{value:.{digits}f}"
