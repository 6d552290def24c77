"""The memory cap: kept by PyTorch's allocator on CUDA and by a check of resident memory elsewhere, and measured."""

from __future__ import annotations

import ctypes
import gc
import os
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from selfreward.cgroup import limits
from selfreward.errors import OutOfMemoryError, first_line
from selfreward.group import local_processes

GIB = 1 << 30
CONTEXT_GIB = 0.75
"""What a process takes of a GPU before its first tensor (CUDA's context and kernels), in GiB; an upper estimate."""

_OUT_OF_MEMORY = (
    "DefaultCPUAllocator: can't allocate memory",
    "MPS backend out of memory",
    "CUDA error: out of memory",  # of CUDA itself, past the allocator
)
"""What PyTorch says where it has no error of its own kind for it."""


def enforce_cap(cap_gb: float) -> None:
    """Let this process take no more than `cap_gb` GiB of the GPU's memory, CUDA's context included.

    Past it, PyTorch raises its out-of-memory error, as on a card of that size. It takes CUDA, and a part of its memory.
    """
    import torch

    torch.cuda.set_per_process_memory_fraction(share_of_gpu(max(cap_gb - CONTEXT_GIB, 0)))


def let_segments_grow() -> None:
    """Have PyTorch's allocator lengthen what it holds of a GPU, where it would take more pieces and lose what lies
    between them. To be called before CUDA is used; what a person has set, under either name, stays."""
    if "PYTORCH_ALLOC_CONF" not in os.environ:
        os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")


def share_of_gpu(gb: float) -> float:
    """The part of the GPU's memory, at most all, that so many GiB are."""
    import torch

    return min(gb * GIB / torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory, 1.0)


def available_gb(device: str) -> float:
    """GiB that this process could take: of a GPU what is free and what its allocator holds, else its share of main
    memory. On a GPU it has a CUDA context then."""
    if device != "cuda":
        return main_memory() / GIB / local_processes()
    import torch

    free, _ = torch.cuda.mem_get_info()
    return (free + torch.cuda.memory_reserved()) / GIB


def main_memory() -> int:
    """Bytes of the machine's main memory, or what this process's container or batch job may have of it."""
    allowed = [int(limit) for limit in limits("memory.max") if limit.strip().isdigit()]  # else "max": no limit
    return min([psutil.virtual_memory().total, *allowed])


def check_resident(ram_gb: float | None) -> None:
    """Raise `OutOfMemoryError` where this process holds more than `ram_gb` GiB of main memory, also when what was freed
    is given back to the system: the C library keeps it, in pieces that fit ever less."""
    if ram_gb is None or resident_bytes() <= ram_gb * GIB:
        return
    release()
    held = resident_bytes()
    if held > ram_gb * GIB:
        raise OutOfMemoryError(f"memory.ram_gb={ram_gb:g}: the process holds {held / GIB:.2f} GiB")


def resident_bytes() -> int:
    """Main memory that this process holds now."""
    return psutil.Process().memory_info().rss


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: by our check, PyTorch's allocator, or the system's."""
    import torch

    return isinstance(error, (OutOfMemoryError, torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY)
    )


def release() -> None:
    """Give back what is no longer used, to the device and to the system."""
    gc.collect()
    if cuda := _cuda():
        cuda.empty_cache()
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # another C library: then its own habits decide
            ctypes.CDLL("libc.so.6").malloc_trim(0)


class MemoryMeter:
    """Measures the peak of GPU memory where CUDA is in use, otherwise of the process's resident memory.

    It raises `OutOfMemoryError` where memory runs out while it measures, and nobody has given way; and after each
    measurement, where the GPU's memory in use has grown by more than `cap_gb` GiB since the first one: what a kernel or
    a library takes past PyTorch's allocator counts too.
    """

    def __init__(self, cap_gb: float | None = None) -> None:
        self._cap_gb = cap_gb
        self._before: int | None = None

    @contextmanager
    def measure(self) -> Iterator[_Peak]:
        if "torch" in sys.modules:
            release()  # or what an earlier phase held, and the system has not got back, would count for this one
        peak = _Peak()
        peak.restart()
        try:
            yield peak
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise OutOfMemoryError(
                f"memory ran out ({first_line(error)}): lower memory.scoring_tokens, sampling.max_prompt_tokens or "
                "sampling.max_new_tokens, or allow more memory"
            ) from None
        if (cuda := _cuda()) and self._cap_gb is not None:
            free, total = cuda.mem_get_info()
            # What others hold of the device; CUDA itself counts as theirs, and is added again as an estimate.
            self._before = total - free - cuda.memory_reserved() if self._before is None else self._before
            self._check(total - free - self._before + int(CONTEXT_GIB * GIB))

    def _check(self, taken: int) -> None:
        if self._cap_gb is not None and taken > self._cap_gb * GIB:
            raise OutOfMemoryError(
                f"memory.cap_gb={self._cap_gb:g}: {taken / GIB:.1f} GiB of the GPU were taken since the run began; "
                "end what else runs on it, or lower memory.sampling_rows or memory.micro_batch"
            )


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
