"""Make an artifact once: look for it, lock, look again, compute, write the manifest last."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from selfreward.errors import ArtifactError
from selfreward.group import ALONE, Group
from selfreward.records import Record, from_table
from selfreward.store.identity import Identity, artifact_id, canonical_json, file_sha256, plain
from selfreward.store.manifest import Manifest, git_revision, library_versions, write_atomically
from selfreward.store.observer import Meter, NoMeter, Observer, Silent
from selfreward.store.work import Work

Config = TypeVar("Config", bound=Identity)
Tools = TypeVar("Tools")
Metrics = dict[str, Any]


@dataclass(frozen=True)
class Artifact:
    """A complete artifact: its folder and its manifest."""

    path: Path
    manifest: Manifest

    @property
    def id(self) -> str:
        return self.manifest.id

    @property
    def full_id(self) -> str:
        """`<stage>/<id>`, by which other manifests name it."""
        return self.manifest.full_id

    @property
    def metrics(self) -> Metrics:
        return self.manifest.metrics

    def file(self, name: str) -> Path:
        """The path of one of its files, after its bytes were held against the manifest.

        Raises `ArtifactError` where they differ.
        """
        path = self.path / name
        if file_sha256(path) != self.manifest.files[name].sha256:
            raise ArtifactError(f"{path} was changed after it was made: remove {self.path} to make it again")
        return path

    def read(self, record: type[Record]) -> list[Record]:
        """All rows of its Parquet shards, in order."""
        names = [name for name in self.manifest.files if name.endswith(".parquet")]
        return [row for name in names for row in from_table(pq.read_table(self.file(name)), record)]


def digests(root: Path) -> dict[str, dict[str, str]]:
    """The SHA-256 of every file of every complete artifact below `root`, by artifact and file.

    Raises `ArtifactError` where a file is not as its manifest says.
    """
    found: dict[str, dict[str, str]] = {}
    for path in sorted(root.glob("*/*/manifest.json")):
        if manifest := Manifest.read(path.parent):
            artifact = Artifact(path.parent, manifest)
            for name in manifest.files:
                artifact.file(name)  # holds the bytes against the manifest
            found[artifact.full_id] = {name: entry.sha256 for name, entry in manifest.files.items()}
    return found


@dataclass(frozen=True)
class Stage(Generic[Config, Tools]):
    """A function from artifacts and settings to one artifact.

    `version` is raised whenever a change of the code changes what the same settings make.
    """

    name: str
    version: int
    function: Callable[[Config, Mapping[str, Artifact], Work, Tools], Metrics]


class Store(Generic[Tools]):
    """The artifacts below one folder, shared by all runs that point at it.

    Where a run has several processes, all of `group` make an artifact together, and ask for the same ones in the same
    order. The first looks for it, holds its lock and writes its manifest.
    """

    def __init__(
        self,
        root: Path,
        tools: Tools,
        observer: Observer | None = None,
        meter: Meter | None = None,
        group: Group = ALONE,
    ) -> None:
        self.root = root
        self.tools = tools
        self.observer: Observer = observer or Silent()
        self.meter: Meter = meter or NoMeter()
        self.group = group

    def run(
        self,
        stage: Stage[Config, Tools],
        config: Config,
        parents: Mapping[str, Artifact] | None = None,
        seed: int | None = None,
    ) -> Artifact:
        """The artifact of `stage` under these settings: reused where it is complete, otherwise made.

        Raises `ArtifactError` for one that was made from parents whose files are other ones now.
        """
        parents = parents or {}
        full_ids = {name: parent.full_id for name, parent in parents.items()}
        identifier = artifact_id(stage.name, stage.version, config, full_ids, seed)
        folder = self.root / stage.name / identifier
        if manifest := self.group.broadcast(lambda: Manifest.read(folder)):
            return self._reuse(folder, manifest, parents)
        with self._locked(stage.name, identifier) if self.group.leads else nullcontext():
            if manifest := self.group.broadcast(lambda: Manifest.read(folder)):
                return self._reuse(folder, manifest, parents)
            manifest = self._make(stage, config, parents, full_ids, seed, folder)
        self.observer.finished(manifest, reused=False)
        return Artifact(folder, manifest)

    def _reuse(self, folder: Path, manifest: Manifest, parents: Mapping[str, Artifact]) -> Artifact:
        for name, content in manifest.parent_contents.items():
            if content != parents[name].manifest.content:
                made = " ".join(map(str, self._made_from(manifest)))
                raise ArtifactError(
                    f"{manifest.full_id} was made from other files of {manifest.parents[name]} than are there now: "
                    f"remove {made} to make again all that comes of it"
                )
        if self.group.leads:
            shutil.rmtree(folder / "partial", ignore_errors=True)
        self.observer.finished(manifest, reused=True)
        return Artifact(folder, manifest)

    def _make(
        self,
        stage: Stage[Config, Tools],
        config: Config,
        parents: Mapping[str, Artifact],
        full_ids: dict[str, str],
        seed: int | None,
        folder: Path,
    ) -> Manifest:
        contents = {name: parent.manifest.content for name, parent in parents.items()}
        self.group.broadcast(lambda: _begin(folder, contents))
        self.observer.started(stage.name, folder.name)
        with self.meter.measure() as peak:
            work = Work(folder, seed, self.observer, peak, self.group)
            metrics = stage.function(config, parents, work, self.tools)
            cost = work.total_cost()

        def complete() -> Manifest:
            manifest = Manifest(
                stage=stage.name,
                stage_version=stage.version,
                id=folder.name,
                config=plain(config),
                parents=full_ids,
                seed=seed,
                files=work.files(),
                metrics=metrics,
                cost=cost,
                parent_contents=contents,
                libraries=library_versions(),
                git_revision=git_revision(),
            )
            manifest.write(folder)
            shutil.rmtree(folder / "partial", ignore_errors=True)
            return manifest

        return self.group.broadcast(complete)

    def _made_from(self, manifest: Manifest) -> list[Path]:
        """The folders of an artifact and of all that was made from it."""
        others: list[Manifest] = []
        for path in sorted(self.root.glob("*/*/manifest.json")):
            with suppress(ArtifactError):  # one that is damaged is of no concern here
                others += filter(None, [Manifest.read(path.parent)])
        found = [manifest.full_id]
        for full_id in found:  # which grows
            found += [m.full_id for m in others if full_id in m.parents.values() and m.full_id not in found]
        return [self.root / full_id for full_id in found]

    @contextmanager
    def _locked(self, stage: str, identifier: str) -> Iterator[None]:
        """Hold the artifact's lock; the system drops it with the process, however that ends."""
        path = self.root / ".locks" / f"{stage}-{identifier}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            self.observer.waiting(stage, identifier)
            lock.acquire()
        try:
            yield
        finally:
            lock.release()


def _begin(folder: Path, contents: dict[str, str]) -> None:
    """Make ready for an attempt: an earlier one goes on where it left off, unless its parents had other files."""
    note, text = folder / "partial" / "parents.json", canonical_json(contents).encode()
    if folder.exists() and not (note.exists() and note.read_bytes() == text):
        shutil.rmtree(folder)
    note.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(note, text)
