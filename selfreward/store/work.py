"""The part of the store that a running stage sees: shards that survive a kill, a scratch folder, progress."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import pyarrow.parquet as pq

from selfreward.errors import ArtifactError
from selfreward.group import ALONE, Group
from selfreward.records import Record, from_table, to_table
from selfreward.store.identity import file_sha256
from selfreward.store.manifest import Cost, FileEntry, write_atomically
from selfreward.store.observer import Observer, Peak

Item = TypeVar("Item")
_ARRIVAL_SECONDS = 120  # for which a network file system may not show what another machine has written


class Work:
    """One attempt at one artifact.

    `folder` is where the artifact's files go; `scratch` holds what only an unfinished artifact needs and is removed
    with its completion; `seed` is the run's seed, and 0 for a stage without one. A stage may set `planned_memory`,
    the bytes that it was planned to take. Where a run has several processes, each of `group` makes the same attempt,
    and they divide what can be divided.
    """

    def __init__(self, folder: Path, seed: int | None, observer: Observer, peak: Peak, group: Group = ALONE) -> None:
        self.folder = folder
        self.group = group
        self.scratch = folder / "partial"
        self.seed = seed or 0
        self.earlier = Cost()
        self.planned_memory = 0
        self._observer = observer
        self._peak = peak
        self._began = time.perf_counter()
        self._tokens = 0
        self.scratch.mkdir(parents=True, exist_ok=True)

    def plan(self, units: float, unit: str) -> None:
        """Say how much there is to do, and of what."""
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
        """What the artifact has cost this process so far, earlier attempts included."""
        return self.earlier + self._own_cost()

    def total_cost(self) -> Cost:
        """What it has cost all processes: wall-clock seconds, the tokens of all, the highest peak of one.

        To be asked of all processes at once.
        """
        earlier, own = zip(*self.group.gather((self.earlier, self._own_cost())), strict=True)
        now = dataclasses.replace(sum(own, Cost()), seconds=max(cost.seconds for cost in own))
        return sum(earlier, Cost()) + now

    def _own_cost(self) -> Cost:
        return Cost(time.perf_counter() - self._began, self._tokens, self._peak.bytes(), self.planned_memory)

    def shards(
        self,
        shards: Sequence[Sequence[Item]],
        compute: Callable[[Sequence[Item]], list[Record]],
        record: type[Record],
        units: Callable[[Sequence[Item]], float] = len,
        size: Callable[[Sequence[Item]], float] = lambda _: 0,
    ) -> list[Record]:
        """Compute and store each shard that isn't there yet, one Parquet file each, and return all their rows.

        `compute` must depend on its shard alone, so that a run killed anywhere goes on with the missing ones, and the
        processes of a group can divide them. It tells its own progress; `units` says how much a shard counts for that
        is there already. The shard of the greatest `size` comes first, so that what runs out of memory does so at once.
        """
        order = sorted(range(len(shards)), key=lambda i: size(shards[i]), reverse=True)
        found = {index for index in self.group.mine(order) if self._adopt(self._shard(index))}
        found = set().union(*self.group.gather(found))
        missing = [index for index in order if index not in found]
        if self.group.size > 1:
            self.plan(sum(units(shards[index]) for index in self.group.mine(missing)), "in this process's share")
        else:
            for index in order:
                if index in found:
                    self._observer.advanced(units(shards[index]), 0)
        rows: dict[int, list[Record]] = {}
        made: dict[int, str] = {}
        for index in self.group.mine(missing):
            before = self.cost
            rows[index] = compute(shards[index])
            _write_parquet(self._shard(index), rows[index], record)
            made[index] = self._record_shard(self._shard(index), before)
        for hashes in self.group.gather(made):
            for index in hashes.keys() - rows.keys():
                _await(self._shard(index), hashes[index])
        for index in set(order) - rows.keys():
            rows[index] = from_table(pq.read_table(self._shard(index)), record)
        return [row for index in range(len(shards)) for row in rows[index]]

    def _shard(self, index: int) -> Path:
        return self.folder / f"shard-{index:05}.parquet"

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

    def _record_shard(self, path: Path, before: Cost) -> str:
        after = self.cost
        cost = Cost(
            (after.seconds - before.seconds) / self.group.size,  # of the clock that all processes share
            after.tokens - before.tokens,
            after.peak_memory_bytes,
            self.planned_memory,
        )
        sha256 = file_sha256(path)
        note = {"sha256": sha256, "cost": dataclasses.asdict(cost)}
        write_atomically(self._note(path), json.dumps(note).encode())
        return sha256

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
            entries[path.name] = _entry(path)
        return entries


def _entry(path: Path) -> FileEntry:
    sha256, size = file_sha256(path), path.stat().st_size
    if path.suffix != ".parquet":
        return FileEntry(sha256, size)
    rows = pq.read_table(path).to_pylist()
    return FileEntry(sha256, size, len(rows), hashlib.sha256(repr(rows).encode()).hexdigest())


def _await(path: Path, sha256: str) -> None:
    """Wait until another process's file can be read here as it was written there."""
    deadline = time.monotonic() + _ARRIVAL_SECONDS
    while not path.is_file() or file_sha256(path) != sha256:
        if time.monotonic() > deadline:
            raise ArtifactError(f"{path} was written by another process and can't be read here: share artifacts_dir")
        time.sleep(0.1)


def _write_parquet(path: Path, rows: Sequence[Record], record: type[Record]) -> None:
    buffer = io.BytesIO()
    pq.write_table(to_table(rows, record), buffer, compression="zstd")
    write_atomically(path, buffer.getvalue())
