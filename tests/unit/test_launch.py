"""What `launch=accelerate` starts, and what it refuses before it starts anything."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from selfreward.config import LaunchConfig, RunConfig
from selfreward.errors import ConfigError
from selfreward.kinds import check_settings
from selfreward.launch import launch
from tests.conftest import tiny_settings


def test_apples_gpu_takes_one_process(tmp_path: Path) -> None:
    cfg = _settings(tmp_path, kind="accelerate", processes=2)
    cfg.engine.device = "mps"
    with pytest.raises(ConfigError, match=r"^launch.kind=accelerate: .*engine.device=mps; use launch=single$"):
        check_settings(cfg)


def test_no_server_is_started_in_each_of_several_processes(tmp_path: Path) -> None:
    cfg = _settings(tmp_path, kind="accelerate", processes=2)
    cfg.engine.kind, cfg.engine.python = "vllm", sys.executable
    with pytest.raises(ConfigError, match=r"^engine.kind=vllm: each process would start a server; .*engine=server"):
        check_settings(cfg)


def _settings(tmp_path: Path, **launch_settings: object) -> RunConfig:
    cfg = tiny_settings(tmp_path, tmp_path / "run")
    cfg.launch = LaunchConfig(**launch_settings)  # pyright: ignore[reportArgumentType]
    return cfg


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"processes": 2}, "launch.processes=2: launch.kind=single is one process"),
        ({"config_file": "a.yaml"}, "launch.config_file=a.yaml: launch.kind=single is one process"),
        ({"kind": "accelerate", "processes": 0}, "launch.processes=0: use a number of at least 1"),
        ({"kind": "accelerate", "config_file": "a.yaml"}, "launch.config_file=a.yaml: there is no such file"),
        ({"kind": "mpi"}, "launch.kind=mpi: use one of single, accelerate"),
    ],
)
def test_a_launch_that_can_not_be_is_refused(tmp_path: Path, given: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_settings(_settings(tmp_path, **given))
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize(("processes", "spread"), [(2, "launch.processes=2"), (None, "several processes")])
def test_a_loss_that_compares_pairs_is_not_spread(tmp_path: Path, processes: int | None, spread: str) -> None:
    cfg = _settings(tmp_path, kind="accelerate", processes=processes)
    cfg.train.loss, cfg.memory.micro_batch = "sigmoid_sft", None
    with pytest.raises(
        ConfigError, match=f"^train.loss=sigmoid_sft: .* which {spread} would divide; use launch=single"
    ):
        check_settings(cfg)
    cfg.launch.processes = 1
    check_settings(cfg)


@pytest.mark.parametrize("kind", ["FSDP", "DEEPSPEED", "MEGATRON_LM"])
def test_a_config_file_that_cuts_the_model_up_is_refused(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "accelerate.yaml"
    file.write_text(f"distributed_type: {kind}\nnum_processes: 2\n")
    with pytest.raises(ConfigError, match=f"^launch.config_file=.*: distributed_type: {kind} would cut the base model"):
        launch(LaunchConfig("accelerate", config_file=str(file)), tmp_path)


def test_a_config_file_with_no_number_of_processes_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "accelerate.yaml"
    file.write_text("num_processes: two\n")
    with pytest.raises(ConfigError, match=f"^launch.config_file={file}: num_processes: two is no number; write one$"):
        launch(LaunchConfig("accelerate", config_file=str(file)), tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("num_processes: [2\n", r"is no YAML \(while parsing .*\); `accelerate config` writes one"),
        ("- num_processes\n", "holds no settings; `accelerate config` writes one that does"),
        ("", "holds no settings; `accelerate config` writes one that does"),
    ],
    ids=["broken off", "a list", "empty"],
)
def test_a_config_file_that_is_none_is_refused_in_one_line(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "accelerate.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=f"^launch.config_file={file}: {said}$"):
        launch(LaunchConfig("accelerate", config_file=str(file)), tmp_path)
