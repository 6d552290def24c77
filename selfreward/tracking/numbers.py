"""Numbers as people read them; a dash for what was not measured."""

from __future__ import annotations


def percent(share: float | None) -> str:
    """A share of 1 as a percentage."""
    return "–" if share is None else f"{100 * share:.0f} %"


def decimal(value: float | None, digits: int = 2) -> str:
    """A number to so many decimals."""
    return "–" if value is None else f"{value:.{digits}f}"
