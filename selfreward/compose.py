"""Settings from `conf/` and the command line, through Hydra, as the typed schema."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from selfreward.config import RunConfig
from selfreward.explain import check_keys
from selfreward.precision import fast_dtype
from selfreward.store.identity import digest

_HERE = Path(__file__).resolve().parent
CONF = _HERE / "conf" if (_HERE / "conf").is_dir() else _HERE.parent / "conf"  # in a wheel, and in a checkout


def register() -> None:
    """Tell Hydra of the schema, and of what files in `conf/` call."""
    ConfigStore.instance().store(name="schema", node=RunConfig)
    OmegaConf.register_new_resolver("folder_name", folder_name, replace=True)
    OmegaConf.register_new_resolver("fast_dtype", fast_dtype, replace=True)


def compose_run(overrides: Sequence[str]) -> RunConfig:
    """The settings that a command line with these overrides has."""
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        composed = compose("config", overrides=list(overrides))
    given: Any = OmegaConf.to_container(composed, resolve=True)
    check_keys(given)
    settings: Any = OmegaConf.to_object(composed)
    return settings


def folder_name(overrides: str) -> str:
    """A sweep point's overrides as one folder's name: no slashes, and not longer than file systems take, 255 bytes."""
    name = overrides.replace("/", "_")
    if len(name) <= 120 and len(name.encode()) <= 240:
        return name
    begun = name[:100].encode()[:200].decode(errors="ignore")
    return f"{begun}-{digest(overrides)[:8]}"
