"""The console has a line for what each stage makes."""

from __future__ import annotations

from selfreward import loop
from selfreward.store import Stage
from selfreward.tracking.descriptions import DESCRIPTIONS


def test_every_stage_of_the_loop_is_described_and_no_other() -> None:
    stages = {thing.name for thing in vars(loop).values() if isinstance(thing, Stage)}
    assert stages == DESCRIPTIONS.keys()
