"""Whether processes have ended."""

from __future__ import annotations

import time
from collections.abc import Sequence

import psutil


def gone(pids: Sequence[int]) -> bool:
    return not any(_is_there(pid) for pid in pids)


def wait_until_gone(pids: Sequence[int], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not gone(pids):
        assert time.monotonic() < deadline, "still there"
        time.sleep(0.05)


def _is_there(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:  # asking whether it exists first would leave it time to end in between
        return False
