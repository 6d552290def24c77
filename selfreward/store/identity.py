"""What an artifact is: the hash of everything that its content depends on, and of nothing else.

Groups of settings are of two types. `Identity` groups are hashed whole. `Execution` groups are refused here: a stage
that depends on some of their settings copies these into an `Identity` of its own (`only`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from selfreward.errors import IdentityError

ID_LENGTH = 12


class Identity:
    """Base of settings that are hashed whole."""


class Execution:
    """Base of settings that are never hashed as a group: most of them change only how a stage runs."""


def only(settings: Any, names: Sequence[str]) -> dict[str, Any]:
    """Some of a group's settings, by name: those that an artifact depends on."""
    return {name: getattr(settings, name) for name in names}


def plain(value: Any, where: str = "identity") -> Any:
    """`value` as plain JSON data.

    Raises `IdentityError` for anything without a canonical form: it is refused, never turned into text.
    """
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise IdentityError(f"{where}={value}: a number in an identity must be finite")
        return value
    if isinstance(value, Identity) and dataclasses.is_dataclass(value):
        return {f.name: plain(getattr(value, f.name), f"{where}.{f.name}") for f in dataclasses.fields(value)}
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: plain(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item, f"{where}[{i}]") for i, item in enumerate(value)]
    raise IdentityError(
        f"{where} is a {type(value).__name__}, which has no canonical form: "
        "use Identity dataclasses, mappings with text keys, lists, numbers, text, true, false or null"
    )


def canonical_json(value: Any) -> str:
    """`value` as JSON with sorted keys and no spaces: equal values give equal bytes."""
    return json.dumps(plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(value: Any) -> str:
    """SHA-256 over the canonical JSON of `value`, in hexadecimal."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def artifact_id(stage: str, version: int, config: Any, parents: Mapping[str, str], seed: int | None) -> str:
    """The first 12 hex digits of SHA-256 over all that an artifact's content depends on."""
    identity = {"stage": stage, "version": version, "config": config, "parents": dict(parents), "seed": seed}
    return digest(identity)[:ID_LENGTH]


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed from any number of parts: equal parts give equal seeds, and any other part another one."""
    return int(digest(list(parts))[:16], 16) >> 1


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
