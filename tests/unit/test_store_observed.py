"""Two that want the same artifact make it once; an observer hears what a store does and waits for."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from selfreward.records import Prompt
from selfreward.store import Artifact, Manifest, Metrics, Stage, Store, Work
from selfreward.store.observer import Silent
from tests.unit.spelling import SHARDS, Recorder, Words, fail, make, spell

# Two at once


class _Waiter(Silent):
    """An observer that lets a test know when it waits."""

    def __init__(self) -> None:
        self.waits = threading.Event()

    def waiting(self, stage: str, artifact_id: str) -> None:
        self.waits.set()


def test_of_two_that_want_the_same_artifact_one_computes_and_the_other_waits_and_reuses(tmp_path: Path) -> None:
    computed: list[str] = []
    begun, observer = threading.Event(), _Waiter()

    def function(config: Words, parents: Mapping[str, Artifact], work: Work, tools: str) -> Metrics:
        computed.append(tools)
        begun.set()
        assert observer.waits.wait(timeout=60)  # the second comes while the first is at it
        work.shards(SHARDS, lambda items: spell("!", items), Prompt)
        return {}

    stage = Stage("words", 1, function)
    with ThreadPoolExecutor() as pool:
        first = pool.submit(Store(tmp_path, "first").run, stage, Words())
        assert begun.wait(timeout=60)
        second = pool.submit(Store(tmp_path, "second", observer).run, stage, Words())
        assert first.result().read(Prompt) == second.result().read(Prompt)
    assert computed == ["first"]


def test_other_artifacts_are_not_waited_for(tmp_path: Path) -> None:
    observer = _Waiter()

    def function(config: Words, parents: Mapping[str, Artifact], work: Work, tools: None) -> Metrics:
        Store(tmp_path, None, observer).run(Recorder().stage, Words("?"))
        return {}

    Store(tmp_path, None).run(Stage("words", 1, function), Words("!"))
    assert not observer.waits.is_set()


# What the store tells


class _Listener:
    def __init__(self) -> None:
        self.heard: list[Any] = []

    def waiting(self, stage: str, artifact_id: str) -> None:
        self.heard.append("waiting")

    def started(self, stage: str, artifact_id: str) -> None:
        self.heard.append(f"started {stage}")

    def planned(self, units: float, unit: str) -> None:
        self.heard.append(f"planned {units} {unit}")

    def advanced(self, units: float, tokens: int) -> None:
        self.heard.append((units, tokens))

    def finished(self, manifest: Manifest, *, reused: bool) -> None:
        self.heard.append("reused" if reused else "made")


def test_an_observer_hears_what_is_done_and_what_was_done_before(tmp_path: Path) -> None:
    fail(tmp_path, "e")
    listener = _Listener()
    make(tmp_path, Recorder(), observer=listener)
    make(tmp_path, Recorder(), observer=listener)
    assert listener.heard == ["started words", "planned 5 words", (2, 0), (2, 0), (1, 10), "made", "reused"]
