"""Settings for tests, and how to set one by its key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from selfreward.config import PromptsConfig, RunConfig


def sound(folder: Path) -> RunConfig:
    """Settings that are all right."""
    cfg = RunConfig(output_dir=str(folder / "outputs" / "run"), prompts=PromptsConfig(kind="seed_pool"))
    cfg.model.name = "somewhere"
    return cfg


def override(cfg: RunConfig, key: str, value: Any) -> None:
    """Set `group.name`, which must be there."""
    *groups, name = key.split(".")
    settings: Any = cfg
    for group in groups:
        settings = getattr(settings, group)
    assert hasattr(settings, name), key
    setattr(settings, name, value)
