"""`launch=accelerate launch.processes=2` as people meet it: what it makes, what it says, how it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from selfreward.store import digests

pytestmark = pytest.mark.slow

TINY = [
    "model.dtype=float32",
    "train.reference_logprobs=computed",
    "iteration=1",
    "prompts.per_iteration=24",
    "prompts.held_out=4",
    "sampling.n=2",
    "sampling.max_new_tokens=24",
    "sampling.shard_size=1",
    "judge.shard_size=2",
    "evaluation.max_new_tokens=8",
    "train.batch_size=3",
    "train.learning_rate=1e-3",
    "train.lora.dropout=0.1",
    "train.epochs=2",
    "memory.checkpoint_seconds=0",
    "tracking.wandb=disabled",
]
TWO = ["launch=accelerate", "launch.processes=2"]


def start(model: Path, output_dir: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "selfreward.run", f"model.name={model}", f"output_dir={output_dir}", *TINY]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*command, *arguments], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Its exit code, and what it said on standard output and standard error."""
    output, error = process.communicate(timeout=300)
    return process.returncode, output, error


def workers(folder: Path) -> list[psutil.Process]:
    """The workers of the run in `folder`, by rank."""
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        try:
            if {"selfreward.worker", str(folder / "config.json")} <= {
                *process.cmdline()
            } and "RANK" in process.environ():
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return sorted(found, key=lambda process: process.environ()["RANK"])


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@dataclass(frozen=True)
class Whole:
    """An undisturbed run over two processes: its folder, and what it said."""

    folder: Path
    output: str


@pytest.fixture(scope="module")
def whole(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    folder = tmp_path_factory.mktemp("whole") / "run"
    code, output, error = finish(start(tiny_model, folder, *TWO))
    assert (code, error) == (0, "")
    return Whole(folder, output)


def test_two_processes_make_what_one_makes(tiny_model: Path, tmp_path: Path, whole: Whole) -> None:
    """To the byte, up to the first training; and that to the rounding of its sums. Without dropout, which differs."""
    two, one = tmp_path / "two" / "run", tmp_path / "one" / "run"
    exact = ["train.lora.dropout=0"]
    assert finish(start(tiny_model, two, *exact, *TWO))[0] == 0
    assert finish(start(tiny_model, one, *exact))[0] == 0
    here, there = digests(one.parent / "artifacts"), digests(two.parent / "artifacts")
    assert here.keys() == there.keys()
    trained = one.resolve() / "iterations" / "1" / "policy"
    after = {f"{path.parent.name}/{path.name}" for path in map(Path.resolve, trained.parent.iterdir())}
    before = {"prompts", "candidates", "judgements", "pairs", "references"}
    same = {f"{(p := (trained.parent / name).resolve()).parent.name}/{p.name}" for name in before}
    for name in here.keys() - after | same:
        assert there[name] == here[name], name
    adapters = [load_file(run / "iterations/1/policy/adapter_model.safetensors") for run in (one, two)]
    for name, tensor in adapters[0].items():
        torch.testing.assert_close(adapters[1][name], tensor, rtol=1e-4, atol=1e-5)


def test_only_the_first_process_speaks(whole: Whole) -> None:
    assert whole.output.count("iteration 1 of 1") == 1
    assert (whole.folder / "run.log").read_text().count("iteration 1 of 1") == 1
    assert {"config.json", "lineage.json", "launch.log", "report.html"} <= {p.name for p in whole.folder.iterdir()}


MOMENTS = ["candidates/*/partial/shard-00004.json", "policies/*/partial/checkpoint-*/checkpoint.json"]


def test_killed_it_goes_on_and_ends_with_the_same_bytes(tiny_model: Path, tmp_path: Path, whole: Whole) -> None:
    folder = tmp_path / "killed" / "run"
    artifacts = folder.parent / "artifacts"
    for moment in MOMENTS:
        process = start(tiny_model, folder, *TWO)
        wait_for(lambda: list(artifacts.glob(moment)))  # noqa: B023
        process.kill()
        assert finish(process)[0] == -signal.SIGKILL
        wait_for(lambda: not workers(folder))
        assert list(artifacts.glob("*/*/partial"))
    code, output, error = finish(start(tiny_model, folder, *TWO))
    assert (code, error) == (0, "")
    assert "artifacts reused" in output
    assert digests(artifacts) == digests(whole.folder.parent / "artifacts")
    assert not list(artifacts.glob("*/*/partial"))


def test_an_error_of_the_workers_is_one_line_and_its_exit_code(tiny_model: Path, tmp_path: Path) -> None:
    code, _, error = finish(start(tiny_model, tmp_path / "run", *TWO, "pairs.margin=100"))
    assert code == 1
    assert error.startswith("error: no preference pair in 24 prompts") and error.count("\n") == 1
    log = (tmp_path / "run" / "run.log").read_text()
    assert log.endswith(error) and log.count("error: ") == 1
    assert not workers(tmp_path / "run")


@pytest.mark.parametrize("rank", [0, 1])
def test_a_worker_that_dies_ends_the_run(tiny_model: Path, tmp_path: Path, rank: int) -> None:
    folder = tmp_path / "run"
    process = start(tiny_model, folder, *TWO)
    wait_for(lambda: list((tmp_path / "artifacts").glob(MOMENTS[0])))
    workers(folder)[rank].kill()
    code, _, error = finish(process)
    assert code == 1
    assert error.startswith("error: a worker ended without a word") and error.count("\n") == 1
    assert str(folder / "launch.log") in error
    assert not workers(folder)


def test_a_stopped_run_stops_all_and_says_so(tiny_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = start(tiny_model, folder, *TWO)
    wait_for(lambda: list((tmp_path / "artifacts").glob(MOMENTS[0])))
    process.terminate()
    code, _, error = finish(process)
    assert (code, error) == (128 + signal.SIGTERM, "stopped; the same command goes on from here\n")
    assert not workers(folder)
