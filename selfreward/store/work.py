"""The part of the store that a running stage sees: shards that survive a kill, a scratch folder, progress."""

from __future__ import annotations

import dataclasses
import io
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import pyarrow.parquet as pq

from selfreward.records import Record, from_table, to_table
from selfreward.store.identity import file_sha256
from selfreward.store.manifest import Cost, FileEntry, write_atomically
from selfreward.store.observer import Observer, Peak

Item = TypeVar("Item")


class Work:
    """One attempt at one artifact.

    `folder` is where the artifact's files go; `scratch` holds what only an unfinished artifact needs and is removed
    with its completion; `seed` is the run's seed, or None for a stage without chance. A stage may set `planned_memory`,
    the bytes that it was planned to take.
    """

    def __init__(self, folder: Path, seed: int | None, observer: Observer, peak: Peak) -> None:
        self.folder = folder
        self.scratch = folder / "partial"
        self.seed = seed
        self.earlier = Cost()
        self.planned_memory = 0
        self._observer = observer
        self._peak = peak
        self._began = time.perf_counter()
        self._tokens = 0
        self.scratch.mkdir(parents=True, exist_ok=True)

    def plan(self, units: float, unit: str) -> None:
        """Say how much there is to do, for the progress bar."""
        self._observer.planned(units, unit)

    def advance(self, units: float = 0, tokens: int = 0) -> None:
        """Say that this much more is done; tokens also go into the manifest's cost."""
        self._tokens += tokens
        self._observer.advanced(units, tokens)

    def note(self, text: str) -> None:
        """Tell a person of something that happened."""
        self._observer.noted(text)

    @property
    def cost(self) -> Cost:
        """What the artifact has cost so far, earlier attempts included."""
        return self.earlier + Cost(
            time.perf_counter() - self._began, self._tokens, self._peak.bytes(), self.planned_memory
        )

    def shards(
        self,
        shards: Sequence[Sequence[Item]],
        compute: Callable[[Sequence[Item]], list[Record]],
        record: type[Record],
        units: Callable[[Sequence[Item]], float] = len,
        size: Callable[[Sequence[Item]], float] = lambda _: 0,
    ) -> list[Record]:
        """Compute and store each shard that isn't there yet, one Parquet file each, and return all their rows.

        `compute` must depend on its shard alone, so that a run killed anywhere goes on with the missing ones.
        It tells its own progress; `units` says how much a shard counts for that is there already. The shard of the
        greatest `size` comes first, so that what runs out of memory does so at once.
        """
        rows: dict[int, list[Record]] = {}
        for index in sorted(range(len(shards)), key=lambda i: size(shards[i]), reverse=True):
            items = shards[index]
            path = self.folder / f"shard-{index:05}.parquet"
            if self._adopt(path):
                self._observer.advanced(units(items), 0)
                rows[index] = from_table(pq.read_table(path), record)
                continue
            before = self.cost
            made = compute(items)
            _write_parquet(path, made, record)
            self._record_shard(path, before)
            rows[index] = made
        return [row for index in range(len(shards)) for row in rows[index]]

    def _adopt(self, path: Path) -> bool:
        """Whether an earlier attempt left this shard whole; its cost then counts as an earlier one."""
        try:
            note = json.loads(self._note(path).read_text())
            if file_sha256(path) != note["sha256"]:
                return False
        except (FileNotFoundError, ValueError, KeyError):
            return False
        self.earlier += Cost(**note["cost"])
        return True

    def _record_shard(self, path: Path, before: Cost) -> None:
        after = self.cost
        cost = Cost(
            after.seconds - before.seconds, after.tokens - before.tokens, after.peak_memory_bytes, self.planned_memory
        )
        note = {"sha256": file_sha256(path), "cost": dataclasses.asdict(cost)}
        write_atomically(self._note(path), json.dumps(note).encode())

    def _note(self, path: Path) -> Path:
        return self.scratch / f"{path.stem}.json"

    def files(self) -> dict[str, FileEntry]:
        """The artifact's files as they stand, by name; leftovers of killed writes are removed."""
        entries: dict[str, FileEntry] = {}
        for path in sorted(self.folder.iterdir()):
            if path.is_dir():
                continue
            if path.name.startswith("."):
                path.unlink()
                continue
            rows = pq.read_metadata(path).num_rows if path.suffix == ".parquet" else None
            entries[path.name] = FileEntry(file_sha256(path), path.stat().st_size, rows)
        return entries


def _write_parquet(path: Path, rows: Sequence[Record], record: type[Record]) -> None:
    buffer = io.BytesIO()
    pq.write_table(to_table(rows, record), buffer, compression="zstd")
    write_atomically(path, buffer.getvalue())
