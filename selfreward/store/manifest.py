"""`manifest.json`: the one true account of an artifact, written last. Where it is, the artifact is complete."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import subprocess
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from selfreward.errors import ArtifactError
from selfreward.store.identity import digest

FILE_NAME = "manifest.json"
_LIBRARIES = (
    "selfreward",
    *("torch", "transformers", "peft", "trl", "datasets", "pyarrow", "safetensors", "numpy"),
    *("rouge-score", "nltk", "datasketch", "py3langid", "datafog-core", "pyap"),  # what filters and gates keep
)


@dataclass(frozen=True)
class Cost:
    """What an artifact took to make: wall-clock seconds, tokens computed, bytes of memory at its peak and planned."""

    seconds: float = 0.0
    tokens: int = 0
    peak_memory_bytes: int = 0
    planned_memory_bytes: int = 0

    def __add__(self, other: Cost) -> Cost:
        peak = max(self.peak_memory_bytes, other.peak_memory_bytes)
        planned = max(self.planned_memory_bytes, other.planned_memory_bytes)
        return Cost(self.seconds + other.seconds, self.tokens + other.tokens, peak, planned)


@dataclass(frozen=True)
class FileEntry:
    """A file's SHA-256 in hexadecimal and its size in bytes. Of a table its rows too, and the SHA-256 of these alone:
    another release of the library that writes the file may write the same rows in other bytes."""

    sha256: str
    bytes: int
    rows: int | None = None
    rows_sha256: str | None = None


@dataclass(frozen=True)
class Manifest:
    """An artifact's identity, parents, files, metrics and cost.

    `parents` are full ids; `parent_contents` tell of which files each of them was made up then (`content`).
    """

    stage: str
    stage_version: int
    id: str
    config: Any
    parents: dict[str, str]
    seed: int | None
    files: dict[str, FileEntry]
    metrics: dict[str, Any]
    cost: Cost
    parent_contents: dict[str, str] = field(default_factory=dict)
    libraries: dict[str, str] = field(default_factory=dict)
    git_revision: str | None = None

    @property
    def full_id(self) -> str:
        """`<stage>/<id>`, by which other manifests name it."""
        return f"{self.stage}/{self.id}"

    @property
    def content(self) -> str:
        """SHA-256 over the names of its files and the hashes of what they hold, in hexadecimal."""
        return digest({name: entry.rows_sha256 or entry.sha256 for name, entry in self.files.items()})

    @property
    def rows(self) -> int:
        return sum(entry.rows or 0 for entry in self.files.values())

    def write(self, folder: Path) -> None:
        """Write the manifest: after this, the artifact is complete."""
        text = json.dumps(dataclasses.asdict(self), indent=2, ensure_ascii=False, allow_nan=False)
        write_atomically(folder / FILE_NAME, text.encode())

    @staticmethod
    def read(folder: Path) -> Manifest | None:
        """The manifest in `folder`, or None where the artifact isn't complete.

        Raises `ArtifactError` where there is one that can't be read, or files that it names are not of its sizes.
        """
        try:
            data = json.loads((folder / FILE_NAME).read_text(encoding="utf-8"))
            files = {name: FileEntry(**entry) for name, entry in data.pop("files").items()}
            manifest = Manifest(files=files, cost=Cost(**data.pop("cost")), **data)
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ArtifactError(
                f"{folder / FILE_NAME} can't be read ({error}): remove {folder} to make it again"
            ) from error
        for name, entry in manifest.files.items():
            path = folder / name
            if not path.is_file() or path.stat().st_size != entry.bytes:
                raise ArtifactError(f"{path} is missing or cut short: remove {folder} to make it again")
        return manifest


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that a process killed at any moment leaves the old one, the new one, or none."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")  # several processes may write the same file
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:  # a full disk names no file
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


@cache
def library_versions() -> dict[str, str]:
    """The versions of Python and of the libraries that results depend on."""
    found = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


@cache
def git_revision() -> str | None:
    """The commit this code is at, with `+changes` where the tree differs from it; None outside a checkout."""
    folder = Path(__file__).parent
    try:
        _git(folder, "ls-files", "--error-unmatch", Path(__file__).name)  # or the checkout is somebody else's
        head = _git(folder, "rev-parse", "HEAD")
        return head + ("+changes" if _git(folder, "status", "--porcelain", "--", str(folder)) else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
