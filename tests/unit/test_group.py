"""What a process makes of the place that its launcher gave it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from selfreward.errors import ConfigError
from selfreward.group import ALONE, Group, join, local_processes, take_one_gpu


def test_each_item_is_the_share_of_exactly_one_process() -> None:
    items = list(range(7))
    shares = [Group(rank, 3).mine(items) for rank in range(3)]
    assert shares == [[0, 3, 6], [1, 4], [2, 5]]


def test_one_process_alone_meets_itself_without_torch() -> None:
    script = (
        "import sys; from selfreward.group import ALONE\n"
        "assert (ALONE.broadcast(lambda: 1), ALONE.gather(2), ALONE.mine([3])) == (1, [2], [3])\n"
        "ALONE.sum([]); assert 'torch' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


@pytest.mark.parametrize(
    ("visible", "rank", "left"),
    [
        (None, "0", "0"),
        (None, "3", "3"),
        ("4,5", "1", "5"),
        ("GPU-a,GPU-b", "0", "GPU-a"),
        ("4,5", "2", ""),
        ("", "1", ""),
    ],
)
def test_a_process_sees_the_gpu_that_is_its_own(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, rank: str, left: str
) -> None:
    monkeypatch.setenv("LOCAL_RANK", rank)
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    take_one_gpu()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == left
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", left)  # so that what was set is undone


@pytest.mark.parametrize("variable", ["ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"])
def test_a_launcher_that_cuts_the_model_up_is_refused(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "true")
    with pytest.raises(ConfigError, match=r"^distributed_type=(FSDP|DEEPSPEED): would cut .*; use .*MULTI_GPU$"):
        join(lambda: "cpu")


def test_what_a_launcher_says_of_precision_is_not_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert join(lambda: "cpu") == ALONE
    assert "ACCELERATE_MIXED_PRECISION" not in os.environ and "WORLD_SIZE" not in os.environ


def test_processes_on_this_machine_are_counted_by_their_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    assert local_processes() == 1
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert local_processes() == 4
