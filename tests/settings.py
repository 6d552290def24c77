"""Settings for tests, and how to set one by its key."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from selfreward.config import PromptsConfig, RunConfig
from selfreward.errors import ConfigError
from selfreward.kinds import check_settings


def sound(folder: Path) -> RunConfig:
    """Settings that are all right."""
    cfg = RunConfig(output_dir=str(folder / "outputs" / "run"), prompts=PromptsConfig(kind="seed_pool"))
    cfg.model.name = "somewhere"
    return cfg


def override_all(cfg: RunConfig, values: Mapping[str, Any]) -> None:
    """Give the settings with these keys other values."""
    for key, value in values.items():
        override(cfg, key, value)


def assert_refused(cfg: RunConfig, overrides: Mapping[str, Any], message: str) -> None:
    """With these values the settings can't be used, which is said in one line that begins so."""
    override_all(cfg, overrides)
    with pytest.raises(ConfigError, match=rf"^{message}") as caught:
        check_settings(cfg)
    assert len(str(caught.value).splitlines()) == 1


def override(cfg: RunConfig, key: str, value: Any) -> None:
    """Set `group.name`, which must be there."""
    *groups, name = key.split(".")
    settings: Any = cfg
    for group in groups:
        settings = getattr(settings, group)
    assert hasattr(settings, name), key
    setattr(settings, name, value)
