"""One iteration with vLLM: sampled and judged by a live server that loads adapters, trained in this process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from selfreward.config import RunConfig, artifacts_dir
from selfreward.store import digests
from selfreward.tracking.metrics import Iteration
from tests.conftest import tiny_settings, vllm_python
from tests.gone import wait_until_gone
from tests.loop.helpers import Recorder, run_loop
from tests.tiny import save_tiny_model

pytestmark = [pytest.mark.vllm, pytest.mark.slow]


def settings(model: Path, output_dir: Path) -> RunConfig:
    cfg = tiny_settings(model, output_dir)
    cfg.engine.kind, cfg.engine.python = "vllm", vllm_python()
    return cfg


@pytest.fixture(scope="module")
def cfg(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    folder = tmp_path_factory.mktemp("vllm")
    return settings(save_tiny_model(folder / "model", head_dim=32), folder / "outputs" / "run")


@pytest.fixture(scope="module")
def of_other_tests() -> list[psutil.Process]:
    """Processes that were here before: the contract's server stays as long as its session."""
    return psutil.Process().children(recursive=True)


@pytest.fixture(scope="module")
def killed(cfg: RunConfig) -> list[int]:
    """The processes that the run had started when it was killed, in the middle of the first answers."""
    pids = Path(cfg.output_dir).parent / "pids"
    pids.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "tests.loop.test_vllm", cfg.model.name, cfg.output_dir, str(pids)]
    assert subprocess.run(command, cwd=Path(__file__).parents[2]).returncode == -signal.SIGKILL
    return [int(pid) for pid in pids.read_text().split()]


def test_when_the_run_is_killed_no_process_of_the_server_stays(killed: list[int]) -> None:
    assert len(killed) >= 3  # the leash, the server, and what computes
    wait_until_gone(killed, 40)


@pytest.fixture(scope="module")
def iterations(cfg: RunConfig, killed: list[int], of_other_tests: list[psutil.Process]) -> list[Iteration]:
    """What the same command makes, which goes on from there."""
    return run_loop(cfg)


def test_the_run_goes_on_to_the_end_and_leaves_no_process_behind(
    cfg: RunConfig, iterations: list[Iteration], of_other_tests: list[psutil.Process]
) -> None:
    assert 0 <= iterations[1]["evaluation"].metrics["win_rate"] <= 1
    assert digests(artifacts_dir(cfg))
    assert not set(psutil.Process().children(recursive=True)) - set(of_other_tests)


def test_the_policy_that_was_trained_here_answers_on_the_server(cfg: RunConfig, iterations: list[Iteration]) -> None:
    policy = iterations[1]["policy"]
    assert f"Loaded new LoRA adapter: name '{policy.id}-" in (Path(cfg.output_dir) / "vllm.log").read_text()
    before, after = (iteration["held_out_candidates"].path for iteration in iterations)
    assert (before / "shard-00000.parquet").read_bytes() != (after / "shard-00000.parquet").read_bytes()


def test_the_server_s_log_probabilities_are_those_of_training(iterations: list[Iteration]) -> None:
    assert iterations[1]["references"].metrics["recorded_difference"] < 1e-3


def test_what_is_complete_is_reused_and_no_server_starts(cfg: RunConfig, iterations: list[Iteration]) -> None:
    log, again = Path(cfg.output_dir) / "vllm.log", Recorder()
    written = log.stat().st_mtime_ns
    run_loop(cfg, again)
    assert not again.computed
    assert log.stat().st_mtime_ns == written


def test_a_command_that_is_stopped_ends_the_server_before_it_ends_itself(cfg: RunConfig, tmp_path: Path) -> None:
    arguments = [f"model.name={cfg.model.name}", "model.dtype=float32", "engine=vllm", "tracking=default"]
    arguments += [f"engine.python={cfg.engine.python}", "tracking.wandb=disabled", f"output_dir={tmp_path}/run"]
    command = [sys.executable, "-m", "selfreward.run", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        assert run.stdout
        assert run.stderr
        for line in run.stdout:
            if "the server is ready" in line:
                break
        started = psutil.Process(run.pid).children(recursive=True)
        run.send_signal(signal.SIGTERM)
        assert run.stderr.read() == "stopped; the same command goes on from here\n"
        assert run.wait() == 128 + signal.SIGTERM
    assert len(started) >= 3
    assert not any(process.is_running() for process in started)


def _be_killed(model: str, output_dir: str, pids: str) -> None:
    def kill(event: str, stage: str) -> None:
        if (event, stage) == ("advanced", "candidates"):
            Path(pids).write_text(" ".join(str(p.pid) for p in psutil.Process().children(recursive=True)))
            os.kill(os.getpid(), signal.SIGKILL)

    run_loop(settings(Path(model), Path(output_dir)), Recorder(kill))


if __name__ == "__main__":
    _be_killed(*sys.argv[1:])
