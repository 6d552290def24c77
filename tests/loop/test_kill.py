"""SIGKILL in the middle of every stage: the same command goes on, and ends with the same bytes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from selfreward.config import artifacts_dir
from selfreward.store import digests
from tests.conftest import tiny_settings
from tests.loop.helpers import Recorder, run_loop

MOMENTS = [
    ("advanced", "parity", 1),
    ("advanced", "candidates", 1),  # in the first shard of the held-out answers
    ("finished", "judgements", 1),
    ("started", "prompts", 1),
    ("advanced", "candidates", 30),  # some shards of the iteration's candidates are there
    ("advanced", "judgements", 6),
    ("started", "pairs", 1),
    ("advanced", "references", 1),
    ("advanced", "policies", 1),  # before the first step
    ("advanced", "policies", 3),  # two steps and a checkpoint later
    ("advanced", "parity", 1),  # policy 1's
    ("started", "evaluations", 1),
    ("advanced", "evaluations", 1),
]


@pytest.mark.slow
def test_killed_in_every_stage_it_ends_with_the_same_bytes(tiny_model: Path, tmp_path: Path) -> None:
    cfg = tiny_settings(tiny_model, tmp_path / "whole" / "run")
    run_loop(cfg)
    killed = tmp_path / "killed" / "run"
    for event, stage, count in MOMENTS:
        result = _run_child(tiny_model, killed, event, stage, count)
        assert result == -signal.SIGKILL, f"not killed at {count} {event} {stage}: exit {result}"
    assert _run_child(tiny_model, killed, "never", "", 1) == 0
    assert digests(killed.parent / "artifacts") == digests(artifacts_dir(cfg))
    assert not list((killed.parent / "artifacts").glob("*/*/partial"))


def _run_child(model: Path, output_dir: Path, *moment: object) -> int:
    arguments = [str(part) for part in (model, output_dir, *moment)]
    return subprocess.run(
        [sys.executable, "-m", "tests.loop.test_kill", *arguments], cwd=Path(__file__).parents[2]
    ).returncode


def _child(model: str, output_dir: str, event: str, stage: str, count: str) -> None:
    """Run the loop and, at the `count`-th `event` of `stage`, die as with a pulled plug."""
    seen = 0

    def kill(at_event: str, at_stage: str) -> None:
        nonlocal seen
        seen += (at_event, at_stage) == (event, stage)
        if seen == int(count):
            os.kill(os.getpid(), signal.SIGKILL)

    run_loop(tiny_settings(Path(model), Path(output_dir)), Recorder(kill))


if __name__ == "__main__":
    _child(*sys.argv[1:])
