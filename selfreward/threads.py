"""How many threads a CPU's matrix products take: the physical cores that this process may really use.

PyTorch counts the machine's. In a container that may use fewer, the threads would wait for each other, which costs far
more than its share.
"""

from __future__ import annotations

import math
import os
from contextlib import suppress

import psutil

from selfreward.cgroup import limits
from selfreward.group import local_processes


def set_threads() -> None:
    """Have PyTorch use this process's part of `usable_cores()`, unless `OMP_NUM_THREADS` says otherwise."""
    import torch

    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(threads_each(local_processes()))


def threads_each(processes: int) -> int:
    """Threads for each of so many processes on this machine."""
    return max(usable_cores() // processes, 1)


def usable_cores() -> int:
    """Physical cores, at most those this process is bound to and the share of time that its container has."""
    cores = psutil.cpu_count(logical=False) or os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        cores = min(cores, len(os.sched_getaffinity(0)))
    for quota in limits("cpu.max"):
        with suppress(ValueError):  # "max": no quota
            time, period = map(int, quota.split())
            cores = min(cores, math.ceil(time / period))
    return max(cores, 1)
