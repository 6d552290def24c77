"""Settings by their keys."""

from __future__ import annotations

from typing import Any

from selfreward.config import RunConfig


def override(cfg: RunConfig, key: str, value: Any) -> None:
    """Set `group.name`, which must be there."""
    *groups, name = key.split(".")
    settings: Any = cfg
    for group in groups:
        settings = getattr(settings, group)
    assert hasattr(settings, name), key
    setattr(settings, name, value)
