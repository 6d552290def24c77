"""Settings that are names joined by commas."""

from __future__ import annotations

from collections.abc import Collection

from selfreward.errors import ConfigError


def listed(names: str) -> list[str]:
    """The names, in their order."""
    return [name.strip() for name in names.split(",") if name.strip()]


def listed_among(known: Collection[str], key: str, names: str) -> list[str]:
    """The same, all of them `known`. Raises `ConfigError` for the key where one isn't, or there is none."""
    found = listed(names)
    unknown = [name for name in found if name not in known]
    if unknown or not found:
        wrong = f"no {unknown[0]}; " if unknown else ""
        raise ConfigError(key, names, f"{wrong}there are {', '.join(known)}")
    return found
