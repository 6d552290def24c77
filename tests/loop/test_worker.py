"""A process of a run that somebody else has started: `accelerate launch -m selfreward.worker`, under Slurm, say."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from selfreward.config import RunConfig
from selfreward.errors import ConfigError, NoPairsError
from selfreward.group import Group
from selfreward.worker import work


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a process takes for itself is undone."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


def settings(cfg: RunConfig) -> Path:
    """The file of resolved settings."""
    file = Path(cfg.output_dir) / "settings.yaml"
    file.parent.mkdir(parents=True)
    OmegaConf.save(OmegaConf.structured(cfg), file)
    return file


@pytest.mark.parametrize(("reports", "logged"), [(False, True), (True, False)])
def test_an_error_is_logged_unless_the_process_that_hears_of_it_does_that(
    tiny_config: RunConfig, reports: bool, logged: bool
) -> None:
    tiny_config.pairs.margin = 100
    with pytest.raises(NoPairsError):
        work(settings(tiny_config), reports=reports)
    log = (Path(tiny_config.output_dir) / "run.log").read_text()
    assert log.count("error: no preference pair in 6 prompts") == logged


def test_no_server_is_started_in_each_of_several_processes_whatever_has_started_them(
    tiny_config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("selfreward.worker.join", lambda device: Group(0, 2))
    tiny_config.engine.kind, tiny_config.engine.python = "vllm", sys.executable
    with pytest.raises(ConfigError, match=r"^engine.kind=vllm: each process would start a server; .*engine=server"):
        work(settings(tiny_config), reports=False)
