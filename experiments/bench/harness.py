"""Two ways to the same result, timed in alternation in one process."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median, quantiles
from typing import Any, TypeVar

import torch
from transformers import TrainerCallback

Result = TypeVar("Result")


def machine() -> str:
    """The processor or GPU, the threads, and the versions that a figure depends on."""
    if torch.cuda.is_available():
        device = torch.cuda.get_device_name()
    else:
        names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        device = (
            f"{names[0].split(':')[1].strip() if names else platform.processor()}, {torch.get_num_threads()} threads"
        )
    return f"{device}, torch {torch.__version__}"


def clocked(action: Callable[[], Result]) -> tuple[float, Result]:
    """Seconds that `action` takes, the device's work included, and what it returns."""
    began = time.perf_counter()
    result = action()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began, result


def timed(action: Callable[[], Any]) -> float:
    """Seconds that `action` takes."""
    return clocked(action)[0]


def timed_training(trainer: Any) -> float:
    """Seconds from a trainer's first step to its last, without what it sets up once however long it trains."""
    clock = _Clock()
    trainer.add_callback(clock)
    trainer.train()
    return clock.seconds


class _Clock(TrainerCallback):
    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self._began = time.perf_counter()

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds = time.perf_counter() - self._began


def report(case: str, ours: Sequence[float], baseline: Sequence[float], unit: str, **more: Any) -> None:
    """One JSON line: medians of both sides and of their ratios, pair by pair, and the ratios' quartiles as spread."""
    ratios = [theirs / mine for mine, theirs in zip(ours, baseline, strict=True)]
    low, _, high = quantiles(ratios, n=4) if len(ratios) > 1 else (ratios[0],) * 3
    line = {
        "case": case,
        "ours_s": round(median(ours), 3),
        "baseline_s": round(median(baseline), 3),
        "ratio": round(median(ratios), 2),
        "spread": [round(low, 2), round(high, 2)],
        "runs": len(ratios),
        "unit": unit,
        "machine": machine(),
    }
    print(json.dumps(line | more), flush=True)
