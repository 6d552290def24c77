"""A small stage for tests of the store: it spells words, keeps what it computed, and fails where it is told to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from selfreward.records import Prompt
from selfreward.store import Artifact, Identity, Metrics, Stage, Store, Work
from selfreward.store.identity import artifact_id

SHARDS = [["a", "b"], ["c", "d"], ["e"]]
Compute = Callable[[Sequence[str]], list[Prompt]]


@dataclass(frozen=True)
class Words(Identity):
    """Settings of the stage of these tests."""

    suffix: str = "!"


def spell(suffix: str, items: Sequence[str]) -> list[Prompt]:
    """What the stage of these tests makes of a shard."""
    return [Prompt(item, item * 40 + suffix, "") for item in items]


@dataclass
class Recorder:
    """A stage's function that keeps what it computed, and fails at the item it is told to."""

    computed: list[str] = field(default_factory=list)
    fails_at: str = ""

    def function(self, config: Words, parents: Mapping[str, Artifact], work: Work, tools: None) -> Metrics:
        def compute(items: Sequence[str]) -> list[Prompt]:
            if self.fails_at in items:
                raise RuntimeError("killed")
            self.computed.extend(items)
            work.advance(len(items), tokens=10 * len(items))
            return spell(config.suffix, items)

        work.plan(5, "words")
        return {"rows": len(work.shards(SHARDS, compute, Prompt))}

    @property
    def stage(self) -> Stage[Words, None]:
        return Stage("words", 1, self.function)


def make(root: Path, recorder: Recorder, **arguments: Any) -> Artifact:
    return Store(root, None, **arguments).run(recorder.stage, Words())


def fail(root: Path, shard: str, **arguments: Any) -> Path:
    """An attempt that fails at a shard; returns the folder it leaves."""
    with pytest.raises(RuntimeError, match="killed"):
        make(root, Recorder(fails_at=shard), **arguments)
    return folder_of(root)


def folder_of(root: Path) -> Path:
    return root / "words" / artifact_id("words", 1, Words(), {}, None)
