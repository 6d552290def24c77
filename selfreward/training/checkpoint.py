"""Checkpoints that can be trusted: trl's own, with a manifest of hashes written last.

A process may be killed in the middle of writing one, and the trainer resumes silently from files that are damaged or
missing. So a checkpoint counts only where its manifest is there and every hash holds; the rest are deleted.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from selfreward.store import Cost
from selfreward.store.identity import file_sha256
from selfreward.store.manifest import write_atomically

_MANIFEST = "checkpoint.json"


class CheckpointCallback(TrainerCallback):
    """Has a checkpoint written when `seconds` have passed since the last, and seals each one.

    Args:
        seconds: at most this much training is lost to a kill.
        cost: what the training has cost so far, earlier attempts included.
    """

    def __init__(self, seconds: float, cost: Callable[[], Cost]) -> None:
        self._seconds = seconds
        self._cost = cost
        self._last = time.monotonic()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if time.monotonic() - self._last >= self._seconds and state.global_step < state.max_steps:
            control.should_save = True

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        folder = Path(str(args.output_dir))
        newest = folder / f"checkpoint-{state.global_step}"
        seal(newest, self._cost())
        for older in folder.glob("checkpoint-*"):
            if older != newest:
                shutil.rmtree(older)
        self._last = time.monotonic()


def seal(checkpoint: Path, cost: Cost) -> None:
    """Write the manifest of a checkpoint: after this, it can be resumed from."""
    hashes = {str(path.relative_to(checkpoint)): file_sha256(path) for path in _files(checkpoint)}
    note = {"files": hashes, "cost": dataclasses.asdict(cost)}
    write_atomically(checkpoint / _MANIFEST, json.dumps(note).encode())


def newest_whole(folder: Path) -> tuple[Path, Cost] | None:
    """The newest checkpoint whose every file is as it was sealed, and its cost; all others are deleted."""
    found: tuple[Path, Cost] | None = None
    for checkpoint in sorted(folder.glob("checkpoint-*"), key=_step, reverse=True):
        cost = _verified_cost(checkpoint)
        if found is None and cost is not None:
            found = checkpoint, cost
        else:
            shutil.rmtree(checkpoint)
    return found


def _verified_cost(checkpoint: Path) -> Cost | None:
    try:
        note = json.loads((checkpoint / _MANIFEST).read_text())
        expected, cost = note["files"], Cost(**note["cost"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    present = {str(path.relative_to(checkpoint)): path for path in _files(checkpoint)}
    whole = present.keys() == expected.keys() and all(file_sha256(present[name]) == expected[name] for name in expected)
    return cost if whole else None


def _files(checkpoint: Path) -> list[Path]:
    return sorted(path for path in checkpoint.rglob("*") if path.is_file() and path.name != _MANIFEST)


def _step(checkpoint: Path) -> int:
    number = checkpoint.name.removeprefix("checkpoint-")
    return int(number) if number.isdigit() else -1
