"""Threads follow what the process may use, not what the machine has."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from selfreward import cgroup
from selfreward.threads import threads_each, usable_cores

NO_QUOTA = "max 100000"


def machine(patch: pytest.MonkeyPatch, physical: int | None, logical: int, bound: int, *quotas: str) -> None:
    """A machine with so many cores, a process that is bound to some of them, and the quotas of its control groups."""
    patch.setattr("psutil.cpu_count", lambda logical: physical)
    patch.setattr(os, "cpu_count", lambda: logical)
    patch.setattr(os, "sched_getaffinity", lambda _: set(range(bound)), raising=False)
    patch.setattr("selfreward.threads.limits", lambda name: quotas if name == "cpu.max" else ())


@pytest.mark.parametrize(
    ("quota", "cores"),
    [("100000 100000", 1), ("50000 100000", 1), ("150000 100000", 2), (NO_QUOTA, 8), ("", 8), ("nonsense", 8)],
)
def test_a_containers_share_of_time_limits_the_threads(monkeypatch: pytest.MonkeyPatch, quota: str, cores: int) -> None:
    machine(monkeypatch, 8, 16, 16, quota)
    assert usable_cores() == cores


def test_the_narrowest_quota_around_a_process_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, 8, 16, 16, NO_QUOTA, "300000 100000", "600000 100000")
    assert usable_cores() == 3


def test_without_a_quota_it_is_the_physical_cores_that_the_process_is_bound_to(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, 8, 16, 4)
    assert usable_cores() == 4
    machine(monkeypatch, None, 6, 16)
    assert usable_cores() == 6


def test_processes_of_one_machine_divide_its_cores_and_each_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, 8, 16, 16)
    assert [threads_each(processes) for processes in (1, 3, 20)] == [8, 2, 1]


def test_limits_are_those_of_a_processs_group_and_of_all_around_it(tmp_path: Path) -> None:
    own, root = tmp_path / "own", tmp_path / "groups"
    (root / "job" / "step").mkdir(parents=True)
    own.write_text("5:cpu:/old\n0::/job/step\n")
    (root / "job" / "step" / "memory.max").write_text("max\n")
    (root / "job" / "memory.max").write_text("4096\n")
    (tmp_path / "memory.max").write_text("1\n")  # beside the groups, not around them
    assert cgroup.limits("memory.max", root, own) == ["max\n", "4096\n"]
    assert cgroup.limits("memory.max", root / "job", tmp_path / "missing") == ["4096\n"]
    assert cgroup.limits("memory.max", tmp_path / "none", own) == []
