"""SIGKILL in the middle of every stage: the same command goes on, and ends with the same bytes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import traceback
from pathlib import Path

import pytest

from selfreward.config import artifacts_dir
from selfreward.store import digests
from tests.conftest import tiny_settings
from tests.loop.helpers import Recorder, run_loop

MOMENTS = [
    ("advanced", "parity", 1),
    ("started", "leaks", 1),
    ("advanced", "candidates", 1),  # in the first shard of the held-out answers
    ("finished", "judgements", 1),
    ("started", "prompts", 1),
    ("started", "gate", 1),
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
NEVER = ("never", "", 1)


@pytest.mark.slow
def test_killed_in_every_stage_it_ends_with_the_same_bytes(tiny_model: Path, tmp_path: Path) -> None:
    cfg = tiny_settings(tiny_model, tmp_path / "whole" / "run")
    run_loop(cfg)
    killed = tmp_path / "killed" / "run"
    command = [
        sys.executable,
        "-m",
        "tests.loop.test_kill",
        str(tiny_model),
        str(killed),
        json.dumps([*MOMENTS, NEVER]),
    ]
    ended = subprocess.run(command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True, check=True)
    assert json.loads(ended.stdout.splitlines()[-1]) == [-signal.SIGKILL] * len(MOMENTS) + [0]
    assert digests(killed.parent / "artifacts") == digests(artifacts_dir(cfg))
    assert not list((killed.parent / "artifacts").glob("*/*/partial"))


def _one_after_the_other(model: str, output_dir: str, moments: str) -> None:
    """A process for each moment, and how it ended. They are forked from one that has imported what takes seconds, and
    has run nothing."""
    import selfreward.engines.hf
    import selfreward.memory.plan
    import selfreward.training.dpo  # noqa: F401

    codes: list[int] = []
    for event, stage, count in json.loads(moments):
        child = os.fork()
        if not child:
            try:
                _child(model, output_dir, event, stage, count)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    print(json.dumps(codes))


def _child(model: str, output_dir: str, event: str, stage: str, count: int) -> None:
    """Run the loop and, at the `count`-th `event` of `stage`, die as with a pulled plug."""
    seen = 0

    def kill(at_event: str, at_stage: str) -> None:
        nonlocal seen
        seen += (at_event, at_stage) == (event, stage)
        if seen == count:
            os.kill(os.getpid(), signal.SIGKILL)

    run_loop(tiny_settings(Path(model), Path(output_dir)), Recorder(kill))


if __name__ == "__main__":
    _one_after_the_other(*sys.argv[1:])
