"""The memory cap: kept by the allocator on CUDA, and measured on every device."""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

GIB = 1 << 30


def enforce_cap(cap_gb: float) -> None:
    """Let this process take no more than `cap_gb` GiB of the GPU's memory. Does nothing without CUDA.

    Past it, PyTorch raises its out-of-memory error, as on a card of that size.
    """
    import torch

    if torch.cuda.is_available():
        total = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
        torch.cuda.set_per_process_memory_fraction(min(cap_gb * GIB / total, 1.0))


class MemoryMeter:
    """Measures the peak of GPU memory where CUDA is in use, otherwise of the process's resident memory."""

    @contextmanager
    def measure(self) -> Iterator[_Peak]:
        peak = _Peak()
        peak.restart()
        yield peak


class _Peak:
    def restart(self) -> None:
        """Forget earlier peaks. Linux alone can for resident memory; elsewhere the peak is that of the process."""
        if cuda := _cuda():
            cuda.reset_peak_memory_stats()
        elif sys.platform == "linux":
            with suppress(OSError):  # a hardened system may refuse: then it is the process's peak too
                Path("/proc/self/clear_refs").write_text("5")

    def bytes(self) -> int:
        if cuda := _cuda():
            return cuda.max_memory_reserved()
        if sys.platform == "linux":
            status = Path("/proc/self/status").read_text()
            return int(status.split("VmHWM:")[1].split()[0]) * 1024
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def _cuda() -> Any:
    """`torch.cuda` where this process already uses it: measuring must not be what loads torch."""
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized() else None
