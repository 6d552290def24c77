"""What a run's folder shows is what was asked for, also where all of it was there already, and how the run ended."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import pytest

from selfreward.config import RunConfig
from selfreward.errors import BusyError, NoPairsError
from selfreward.run import follow, prepare, run
from selfreward.tracking.dashboard import Dashboard
from selfreward.tracking.run_folder import held


@pytest.fixture
def cfg(tiny_config: RunConfig) -> RunConfig:
    """Policy 0 alone, which shows nothing but its folder."""
    tiny_config.iteration, tiny_config.tracking.report = 0, False
    return tiny_config


def shown(cfg: RunConfig) -> Path:
    """The folder of a run, once it has run."""
    follow(cfg, prepare(cfg), dataclasses.asdict(cfg), Path(cfg.output_dir))
    return Path(cfg.output_dir)


def test_while_a_run_starts_its_processes_no_other_changes_their_settings(cfg: RunConfig) -> None:
    folder = Path(cfg.output_dir)
    with held(folder, ".launch.lock"), pytest.raises(BusyError):
        run(cfg, {"others": "settings"}, folder)
    assert not (folder / "config.json").exists()


def test_a_sweeps_points_are_not_one_group_in_wandb(cfg: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a point that was killed, two attempts would count in the mean of its group."""
    groups: list[str] = []

    def begin(group: str, **_: object) -> None:
        groups.append(group)
        raise OSError("not here")

    monkeypatch.setattr("wandb.init", begin)
    cfg.tracking.wandb = "offline"
    for folder in (Path(cfg.output_dir), Path(cfg.output_dir) / "seed=1"):
        follow(cfg, prepare(cfg), dataclasses.asdict(cfg), folder)
    assert groups == ["tiny", "tiny/seed=1"]


def test_a_report_that_is_asked_for_when_all_is_there_is_made_and_again_where_it_was_removed(cfg: RunConfig) -> None:
    report = shown(cfg) / "report.html"
    assert not report.exists()
    cfg.tracking.report = True
    shown(cfg)
    made = report.read_text()
    report.unlink()
    shown(cfg)
    assert report.read_text() == made


def test_a_report_shows_as_many_examples_as_are_asked_for_later(cfg: RunConfig) -> None:
    cfg.iteration, cfg.tracking.report, cfg.tracking.examples = 1, True, 1
    report = shown(cfg) / "report.html"
    assert "The first 1 of 6 prompts" in report.read_text()
    cfg.tracking.examples = 2
    shown(cfg)
    assert "The first 2 of 6 prompts" in report.read_text()


def test_a_report_is_mended_that_an_interrupted_run_under_other_settings_left(
    cfg: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg.iteration, cfg.tracking.report = 1, True
    report = shown(cfg) / "report.html"
    made = report.read_text()
    longer = copy.deepcopy(cfg)
    longer.iteration, longer.train.beta = 2, 0.5
    with monkeypatch.context() as patch:
        patch.setattr("selfreward.tracking.mirror.write_cards", _interrupt)  # after the report of iteration 1
        with pytest.raises(KeyboardInterrupt):
            shown(longer)
    assert report.read_text() != made
    shown(cfg)
    assert report.read_text() == made


def test_a_dashboard_that_is_asked_for_when_all_is_there_is_filled_once(
    cfg: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged: list[int] = []
    monkeypatch.setattr(Dashboard, "log", lambda self, number, iteration: logged.append(number))
    shown(cfg)
    logged.clear()
    cfg.tracking.wandb = "offline"
    shown(cfg)
    assert logged == [0]
    shown(cfg)
    assert logged == [0]


def test_what_ended_a_run_stands_in_its_log(cfg: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # so that what a run takes is undone
    cfg.iteration, cfg.pairs.margin = 1, 100
    with pytest.raises(NoPairsError) as raised:
        run(cfg, dataclasses.asdict(cfg), Path(cfg.output_dir))
    assert (Path(cfg.output_dir) / "run.log").read_text().endswith(f"error: {raised.value}\n")


def _interrupt(*args: object) -> None:
    raise KeyboardInterrupt
