"""Run the loop in this process, and look at what it made."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

from selfreward.config import RunConfig, artifacts_dir
from selfreward.loop import loop
from selfreward.model import model_files
from selfreward.sources import SOURCES
from selfreward.stages.tools import Tools
from selfreward.store import Manifest, Store
from selfreward.store.observer import Silent
from selfreward.tracking.descriptions import describe
from selfreward.tracking.metrics import Iteration


class Recorder(Silent):
    """Remembers which stages computed, which were reused, and what was said; words what each made, as the console does.
    `at` is called with each event, and may raise or kill."""

    def __init__(self, at: Any = None) -> None:
        self.computed: list[str] = []
        self.reused: list[str] = []
        self.notes: list[str] = []
        self.described: dict[str, str] = {}
        self._at = at or (lambda event, stage: None)
        self._stage = ""

    def started(self, stage: str, artifact_id: str) -> None:
        self._stage = stage
        self._at("started", stage)

    def advanced(self, units: float, tokens: int) -> None:
        self._at("advanced", self._stage)

    def noted(self, text: str) -> None:
        self.notes.append(text)

    def finished(self, manifest: Manifest, *, reused: bool) -> None:
        (self.reused if reused else self.computed).append(manifest.stage)
        self.described[manifest.stage] = describe(manifest)
        self._at("finished", manifest.stage)


def make_store(cfg: RunConfig, recorder: Recorder | None = None) -> Store[Tools]:
    pool = SOURCES[cfg.prompts.kind](cfg.prompts, cfg.data)
    tools = Tools(pool, Path(cfg.model.name), Path(cfg.output_dir), cfg)
    return Store(artifacts_dir(cfg), tools, recorder or Recorder())


def run_loop(cfg: RunConfig, recorder: Recorder | None = None) -> list[Iteration]:
    identity = model_files.identify(Path(cfg.model.name), cfg.model.dtype, cfg.train.quantization)
    store = make_store(cfg, recorder)
    with closing(store.tools):
        return list(loop(cfg, identity, store))
