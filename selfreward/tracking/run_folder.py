"""A run's folder: its settings, what it is made of, and links to its artifacts, one folder an iteration."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import groupby
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from selfreward.errors import ArtifactError, BusyError
from selfreward.explain import explain
from selfreward.store import Artifact, Manifest
from selfreward.store.identity import digest
from selfreward.store.manifest import write_atomically
from selfreward.tracking.data_card import data_cards, markdown
from selfreward.tracking.metrics import Iteration, full_ids

LINEAGE = "lineage.json"
SETTINGS_FILE = "config.json"
SHOWN = "shown.json"
CARD = "data_card.md"
LOG = "run.log"


@contextmanager
def held(folder: Path, name: str = ".lock") -> Iterator[None]:
    """Hold the run's folder for this process, by the lock of that name. Raises `BusyError` where another one does."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / name)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise BusyError(f"another process is at work in {folder}: wait for it, or choose another output_dir") from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def ending_logged(folder: Path) -> Iterator[None]:
    """Put an error that ends the run into its log too, which is where one looks after a batch job."""
    try:
        yield
    except BusyError:  # then the log is another process's
        raise
    except Exception as error:
        with suppress(OSError), (folder / LOG).open("a", encoding="utf-8") as log:  # the disk may be full
            log.write(f"error: {explain(error)}\n")
        raise


def write_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Keep the resolved configuration."""
    write_atomically(folder / SETTINGS_FILE, json.dumps(settings, indent=2, ensure_ascii=False).encode())


def link(folder: Path, iterations: Sequence[Iteration]) -> None:
    """Link each iteration's artifacts by name, and none of a longer run before; then write the lineage: its presence
    means that the folder is whole."""
    for number, iteration in enumerate(iterations):
        place = folder / "iterations" / str(number)
        place.mkdir(parents=True, exist_ok=True)
        for path in place.iterdir():
            if path.is_symlink() and path.name not in iteration:
                path.unlink()  # of the same run under other settings
        for name, artifact in iteration.items():
            target = os.path.relpath(artifact.path.resolve(), place.resolve())  # ".." leaves where a link leads to
            path = place / name
            if path.is_symlink() and path.readlink() == Path(target):
                continue
            path.unlink(missing_ok=True)
            path.symlink_to(target, target_is_directory=True)
    for place in (folder / "iterations").iterdir():
        if place.name.isdecimal() and int(place.name) >= len(iterations):
            for path in place.iterdir():
                if path.is_symlink() or path.name == CARD:
                    path.unlink()
            with suppress(OSError):  # where a person put something into it
                place.rmdir()
    write_atomically(folder / LINEAGE, _lineage(iterations))


def write_cards(folder: Path, iterations: Sequence[Iteration]) -> None:
    """Put a data card beside the artifacts of each iteration that has data to learn from, and beside those alone."""
    for number in range(len(iterations)):
        (folder / "iterations" / str(number) / CARD).unlink(missing_ok=True)  # of the same run under other settings
    for number, cards in groupby(data_cards(iterations), key=lambda card: card.iteration):
        place = folder / "iterations" / str(number)
        place.mkdir(parents=True, exist_ok=True)
        write_atomically(place / CARD, "\n".join(map(markdown, cards)).encode())


def linked(folder: Path, number: int) -> Iteration:
    """The artifacts of iteration `number` by name. Raises `ArtifactError` where none are linked."""
    place = folder / "iterations" / str(number)
    paths = sorted(path for path in place.glob("*") if path.is_symlink())
    found = {path.name: Artifact(path, manifest) for path in paths if (manifest := Manifest.read(path))}
    if not found:
        raise ArtifactError(f"{place} leads to no artifact: the run has not come so far")
    return found


def is_linked(folder: Path, iterations: Sequence[Iteration]) -> bool:
    """Whether the folder shows exactly these iterations already."""
    path = folder / LINEAGE
    return path.is_file() and path.read_bytes() == _lineage(iterations)


def mark(iterations: Sequence[Iteration], *how: Any) -> str:
    """A digest of these iterations and of how they are shown. An artifact that was lost and made again may hold other
    numbers under its id."""
    made = [
        [name, one.full_id, one.manifest.content, json.dumps(one.metrics)]
        for i in iterations
        for name, one in i.items()
    ]
    return digest([made, *how])


def is_shown(folder: Path, where: str, marked: str) -> bool:
    """Whether this was shown there already: in `report`, of which the last one counts, or `wandb`, which keeps all."""
    return marked in _shown(folder).get(where, [])


def note_shown(folder: Path, where: str, marked: str) -> None:
    """Remember that what has this mark was shown there."""
    shown = _shown(folder)
    shown[where] = [*(one for one in shown.get(where, []) if where == "wandb" and one != marked), marked]
    write_atomically(folder / SHOWN, json.dumps(shown, indent=2).encode())


def _shown(folder: Path) -> dict[str, list[str]]:
    path = folder / SHOWN
    return json.loads(path.read_text()) if path.is_file() else {}


def _lineage(iterations: Sequence[Iteration]) -> bytes:
    return json.dumps([full_ids(iteration) for iteration in iterations], indent=2).encode()
