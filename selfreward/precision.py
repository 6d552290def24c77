"""Which type of number a machine computes fast. It is found out without torch: a finished run does without."""

from __future__ import annotations

from pathlib import Path

_INSTRUCTIONS = {"avx512_bf16", "amx_bf16", "bf16"}
"""By which a CPU multiplies in bfloat16, as Linux names them: two of x86, and Arm's."""
_GPU_DRIVERS = (Path("/dev/nvidiactl"), Path("/dev/kfd"), Path("/dev/dxg"))  # the last under Windows


def fast_dtype(device: str, cpu: Path = Path("/proc/cpuinfo")) -> str:
    """bfloat16 on a GPU, and on a CPU that has instructions for it; float32 on all other CPUs.

    A CPU without them takes 6 to 9 times as long for a product of 64 rows and more in bfloat16 as in float32
    (experiments/bench/README.md).
    """
    if device in ("cuda", "mps") or (device == "auto" and _has_gpu()):
        return "bfloat16"
    words = set(cpu.read_text().split()) if cpu.exists() else set()
    return "bfloat16" if words & _INSTRUCTIONS else "float32"


def _has_gpu() -> bool:
    if not any(driver.exists() for driver in _GPU_DRIVERS):
        return False
    import torch

    return torch.cuda.is_available()
