"""Make an artifact once: look for it, lock, look again, compute, write the manifest last."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from selfreward.errors import ArtifactError
from selfreward.group import ALONE, Group
from selfreward.records import Record, from_table
from selfreward.store.identity import Identity, artifact_id, file_sha256, plain
from selfreward.store.manifest import Manifest, git_revision, library_versions
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
    def reference(self) -> str:
        """`<stage>/<id>`, by which other manifests name it."""
        return f"{self.manifest.stage}/{self.manifest.id}"

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
            found[artifact.reference] = {name: entry.sha256 for name, entry in manifest.files.items()}
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
        """The artifact of `stage` under these settings: reused where it is complete, otherwise made."""
        parents = parents or {}
        references = {name: parent.reference for name, parent in parents.items()}
        identifier = artifact_id(stage.name, stage.version, config, references, seed)
        folder = self.root / stage.name / identifier
        if manifest := self.group.share(lambda: Manifest.read(folder)):
            return self._reuse(folder, manifest)
        with self._locked(stage.name, identifier) if self.group.leads else nullcontext():
            if manifest := self.group.share(lambda: Manifest.read(folder)):
                return self._reuse(folder, manifest)
            manifest = self._make(stage, config, parents, references, seed, folder)
        self.observer.finished(manifest, reused=False)
        return Artifact(folder, manifest)

    def _reuse(self, folder: Path, manifest: Manifest) -> Artifact:
        if self.group.leads:
            shutil.rmtree(folder / "partial", ignore_errors=True)
        self.observer.finished(manifest, reused=True)
        return Artifact(folder, manifest)

    def _make(
        self,
        stage: Stage[Config, Tools],
        config: Config,
        parents: Mapping[str, Artifact],
        references: dict[str, str],
        seed: int | None,
        folder: Path,
    ) -> Manifest:
        folder.mkdir(parents=True, exist_ok=True)
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
                parents=references,
                seed=seed,
                files=work.files(),
                metrics=metrics,
                cost=cost,
                libraries=library_versions(),
                git_revision=git_revision(),
            )
            manifest.write(folder)
            shutil.rmtree(folder / "partial", ignore_errors=True)
            return manifest

        return self.group.share(complete)

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
