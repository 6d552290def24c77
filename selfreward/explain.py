"""Errors as one line that names the key, the value and the remedy, wherever they come from."""

from __future__ import annotations

import dataclasses
import difflib
import re
import traceback
from collections.abc import Iterator
from typing import Any

from hydra.errors import HydraException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException

from selfreward.config import RunConfig, schema_key
from selfreward.errors import ConfigError, SelfRewardError, first_line

MENDABLE = (SelfRewardError, HydraException, OmegaConfBaseException, OSError)
"""What a person can mend; anything else is a bug in selfreward and keeps its traceback."""


def explain(error: BaseException) -> str:
    """One line for any of `MENDABLE`, and for a bug."""
    if not isinstance(error, MENDABLE):
        return f"{type(error).__name__}: {first_line(error)}; a bug in selfreward"
    if isinstance(error, OverrideParseException):
        key = error.override.partition("=")[0]
        return f"{error.override}: can't be read; put the value in quotes of its own, \"{key}='...'\""
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}; check that it can be read and written"
    if match := re.match(r"Could not override '([^']+)'|Error merging override \+(engines[^=]*)=", str(error)):
        return str(unknown_key(match[1] or match[2]))
    text, cause = _joined(error), error.__cause__
    if cause is None or isinstance(error, SelfRewardError) or _joined(cause) in text:  # ours say all of it themselves
        return text
    return f"{text}: {_joined(cause)}"


def exit_code(error: BaseException) -> int:
    """2 for settings that can't be used, otherwise what the error says."""
    if isinstance(error, SelfRewardError):
        return error.exit_code
    return 2 if isinstance(error, (HydraException, OmegaConfBaseException)) else 1


def let_go(error: BaseException | None) -> None:
    """Clear what the frames hold that an error came through, and those before it: Hydra keeps a failed point's error to
    the end of a sweep, and with it a model."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def unknown_key(key: str) -> ConfigError:
    """The error for a key that isn't there, with the one that was probably meant."""
    if key.split(".")[0] in ("engines", "engine@engines"):
        remedy = "there is no such engine or setting; +engine@engines.<name>=<choice> adds one, to be set as engine is"
        return ConfigError(key, "...", remedy)
    close = difflib.get_close_matches(key, _keys(RunConfig, ""), n=1)
    meant = f"did you mean {close[0]}?" if close else "see --help and --cfg job for those there are"
    return ConfigError(key, "...", f"there is no such key; {meant}")


def check_keys(settings: dict[str, Any]) -> None:
    """Raise `ConfigError` for a key that the schema lacks: `+key=value` adds one, which would do nothing."""
    known = set(_keys(RunConfig, ""))
    for key in _given(settings, ""):
        if schema_key(key) not in known:
            raise unknown_key(key)


def _joined(error: BaseException) -> str:
    """Hydra and OmegaConf spread their errors over lines, some of them about their own insides."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    inside = ("full_key:", "object_type=", "reference_type=", "Config search path", "provider=", "See https")
    return " ".join(line for line in lines if not line.startswith(inside))


def _keys(schema: Any, prefix: str) -> Iterator[str]:
    for field in dataclasses.fields(schema):
        if dataclasses.is_dataclass(field.default_factory):
            yield from _keys(field.default_factory, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}"


def _given(settings: dict[str, Any], prefix: str) -> Iterator[str]:
    for key, value in settings.items():
        if isinstance(value, dict):
            yield from _given(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"
