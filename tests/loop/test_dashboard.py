"""W&B mirrors the manifests, never asks anything, and never ends a run."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import psutil
import pytest

from selfreward.config import RunConfig, TrackingConfig
from selfreward.errors import ConfigError
from selfreward.tracking.dashboard import Dashboard, example_rows, resolve_mode
from selfreward.tracking.metrics import summary
from tests.conftest import tiny_settings
from tests.loop.helpers import run_loop


@pytest.fixture
def no_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A person without an API key; returns the path of their netrc, which isn't there."""
    monkeypatch.delenv("WANDB_MODE", raising=False)
    for name in ("WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    return tmp_path / "netrc"


def test_without_a_key_it_is_offline_and_with_one_online(no_key: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve_mode("auto") == "offline"
    no_key.write_text("machine api.wandb.ai login user password secret\n")
    assert resolve_mode("auto") == "online"
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert resolve_mode("auto") == "disabled"


@pytest.mark.parametrize("said_by", ["environment", "login"])
def test_a_key_for_a_server_of_ones_own_is_found(
    no_key: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, said_by: str
) -> None:
    no_key.write_text("machine localhost:8080 login user password secret\n")
    assert resolve_mode("auto") == "offline"
    if said_by == "environment":
        monkeypatch.setenv("WANDB_BASE_URL", "http://localhost:8080")
    else:  # `wandb login --host` leaves the address in its settings
        (tmp_path / "settings").write_text("[default]\nbase_url = http://localhost:8080\n")
    assert resolve_mode("auto") == "online"


def test_what_the_environment_says_of_the_place_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    begun: list[dict[str, Any]] = []

    def init(**how: Any) -> Any:
        begun.append(how)
        raise RuntimeError("enough")

    monkeypatch.setattr("wandb.init", init)
    for name in ("PROJECT", "RUN_GROUP", "DIR"):
        monkeypatch.delenv(f"WANDB_{name}", raising=False)
    for said in (False, True):
        if said:
            for name, value in {"PROJECT": "beta", "RUN_GROUP": "week", "DIR": str(tmp_path / "elsewhere")}.items():
                monkeypatch.setenv(f"WANDB_{name}", value)
        Dashboard(tmp_path, TrackingConfig(wandb="offline"), "mine", {}, lambda _: None).log(0, {})
    assert [(how["project"], how["group"], how["dir"]) for how in begun] == [
        ("selfreward", "mine", str(tmp_path)),
        ("beta", "week", str(tmp_path / "elsewhere")),
    ]


def test_online_without_a_key_is_refused_rather_than_asked_for(no_key: Path) -> None:
    with pytest.raises(ConfigError, match="WANDB_API_KEY"):
        resolve_mode("online")


def test_the_examples_show_every_candidate_of_a_prompt_and_what_became_of_it(tiny_config: RunConfig) -> None:
    iteration = run_loop(tiny_config)[1]
    rows = example_rows(1, iteration, prompts=2)
    assert len(rows) == 2 * tiny_config.sampling.n
    assert sorted(row[-1] for row in rows) == ["", "", "chosen", "chosen", "rejected", "rejected"]
    best = max(rows[:3], key=lambda row: row[3])
    assert best[-1] == "chosen"


def test_an_offline_run_holds_each_iterations_metrics(tiny_config: RunConfig, tmp_path: Path) -> None:
    iterations = run_loop(tiny_config)
    said: list[str] = []
    dashboard = Dashboard(tmp_path, TrackingConfig(wandb="offline"), "tiny", {"seed": 0}, said.append)
    for number, iteration in enumerate(iterations):
        dashboard.log(number, iteration)
    dashboard.finish(failed=False)
    assert said == []
    (file,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    names = {*summary(iterations[1]), "candidates/examples", "steps/loss"}
    patience = time.monotonic() + 30
    while missing := {name for name in names if name.encode() not in file.read_bytes()}:
        assert time.monotonic() < patience, missing
        time.sleep(0.1)  # W&B's service may still be writing when the run has finished


class Recorder:
    """In W&B's place: what it is told, in order."""

    def __init__(self) -> None:
        self.axes: dict[str, str | None] = {}
        self.logged: list[dict[str, Any]] = []
        self.exit_code: int | None = None

    def define_metric(self, name: str, step_metric: str | None = None) -> None:
        self.axes[name] = step_metric

    def log(self, values: dict[str, Any]) -> None:
        self.logged.append(values)

    def finish(self, exit_code: int) -> None:
        self.exit_code = exit_code


@pytest.mark.parametrize("failed", [True, False])
def test_each_metric_fits_one_axis_and_a_run_that_failed_is_not_shown_as_finished(
    tiny_config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failed: bool
) -> None:
    """Of two patterns that a name fits, W&B takes either: curves of training came out over iterations."""
    recorder = Recorder()
    monkeypatch.setattr("wandb.init", lambda **_: recorder)
    dashboard = Dashboard(tmp_path, TrackingConfig(wandb="offline"), "tiny", {}, pytest.fail)
    made = run_loop(tiny_config)
    for number, iteration in enumerate(made):
        dashboard.log(number, iteration)
        shown = {"iteration": number, **summary(iteration)}
        assert any(shown.items() <= values.items() for values in recorder.logged)
    dashboard.finish(failed=failed)
    curve = [values["steps/loss"] for values in recorder.logged if "steps/loss" in values]
    assert curve == made[1]["policy"].metrics["loss"]
    assert recorder.exit_code == int(failed)
    for name in {name for values in recorder.logged for name in values} - {"iteration"}:
        (fitting,) = [axis for axis in recorder.axes if fnmatch(name, axis) and axis != "steps/step"]
        assert recorder.axes[fitting] == ("steps/step" if name.startswith("steps/") else "iteration")


def test_a_run_in_which_something_could_not_be_shown_is_ended_all_the_same(
    tiny_config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder()
    monkeypatch.setattr("wandb.init", lambda **_: recorder)
    said: list[str] = []
    dashboard = Dashboard(tmp_path, TrackingConfig(wandb="offline"), "tiny", {}, said.append)
    (first, second) = run_loop(tiny_config)
    dashboard.log(0, first)
    dashboard.log(1, {name: artifact for name, artifact in second.items() if name != "judgements"})
    dashboard.finish(failed=False)
    assert len(said) == 1
    assert recorder.exit_code == 1


@pytest.mark.slow
def test_a_service_that_dies_does_not_end_the_run(tiny_model: Path, tmp_path: Path) -> None:
    """In a process of its own, for W&B's exit hooks are to be survived too."""
    child = [sys.executable, "-m", "tests.loop.test_dashboard", str(tiny_model), str(tmp_path)]
    environment = {key: value for key, value in os.environ.items() if key != "WANDB_SERVICE"}  # a service of its own
    result = subprocess.run(
        child, cwd=Path(__file__).parents[2], env=environment, capture_output=True, text=True, timeout=200
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.endswith("killed\nwent on, warnings: at most one\n")


def _outlive_the_service(model: Path, folder: Path) -> None:
    iterations = run_loop(tiny_settings(model, folder / "outputs" / "run"))
    said: list[str] = []
    dashboard = Dashboard(folder, TrackingConfig(wandb="offline"), "tiny", {}, said.append)
    dashboard.log(0, iterations[0])
    services = psutil.Process().children(recursive=True)  # W&B alone has started any
    for service in services:
        service.kill()
    psutil.wait_procs(services, timeout=10)
    print("killed" if services else "there was no service")
    for _ in range(3):
        dashboard.log(1, iterations[1])
    dashboard.finish(failed=False)
    print(f"went on, warnings: {'at most one' if len(said) <= 1 else said}")


def test_a_failure_is_said_once_and_never_raised(
    tiny_config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(**_: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("wandb.init", fail)
    said: list[str] = []
    dashboard = Dashboard(tmp_path, TrackingConfig(wandb="offline"), "tiny", {}, said.append)
    iterations = run_loop(tiny_config)
    for number, iteration in enumerate(iterations):
        dashboard.log(number, iteration)
    dashboard.finish(failed=False)
    assert said == ["W&B failed and is left out from here on: no space left on device"]


if __name__ == "__main__":
    _outlive_the_service(Path(sys.argv[1]), Path(sys.argv[2]))
