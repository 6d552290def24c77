"""Threads follow what the process may use, not what the machine has."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

from selfreward.threads import usable_cores


@pytest.mark.parametrize(("quota", "most"), [("100000 100000", 1), ("50000 100000", 1), ("150000 100000", 2)])
def test_a_containers_share_of_time_limits_the_threads(tmp_path: Path, quota: str, most: int) -> None:
    (tmp_path / "cpu.max").write_text(quota)
    assert 1 <= usable_cores(tmp_path / "cpu.max") <= most


@pytest.mark.parametrize("quota", ["max 100000", "", "nonsense"])
def test_without_a_quota_it_is_the_physical_cores_that_the_process_is_bound_to(tmp_path: Path, quota: str) -> None:
    (tmp_path / "cpu.max").write_text(quota)
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    assert usable_cores(tmp_path / "cpu.max") == min(psutil.cpu_count(logical=False) or bound, bound)
    assert usable_cores(tmp_path / "missing") == usable_cores(tmp_path / "cpu.max")
