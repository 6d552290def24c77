"""What values a setting may have: `validation` holds each against it."""

from __future__ import annotations

from dataclasses import field
from typing import Any


def number(default: Any, *, above: float | None = None, least: float | None = None, most: float | None = None) -> Any:
    """A numeric setting and the range it must lie in: `above` is exclusive, `least` and `most` inclusive."""
    return field(default=default, metadata={"above": above, "least": least, "most": most})


def choice(default: str, *choices: str) -> Any:
    """A setting that takes one of a few words."""
    return field(default=default, metadata={"choices": choices})
