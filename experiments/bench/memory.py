"""How much memory does training take, against plain trl and against the plan?  `python experiments/bench/memory.py`

Each measurement is a process of its own, which prints its peak. `ours_s` and `baseline_s` are GiB here.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from statistics import median

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import torch
from baseline import Choice
from harness import report
from large_model import lengths
from pairs import real_pairs, settings

from selfreward.cap import GIB, MemoryMeter
from selfreward.memory.plan import Plan
from selfreward.model import model_files
from selfreward.model.models import Models

RUNS = 5
CASES = [(1, False), (4, False), (4, True)]  # pairs in a micro-batch, gradient checkpointing


def main() -> None:
    """Print one line a case; with --measure, be one measurement."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--measure", choices=["ours", "plain"])
    parser.add_argument("--micro-batch", type=int)
    parser.add_argument("--checkpointing", action="store_true")
    chosen = parser.parse_args()
    if chosen.measure:
        print(json.dumps(measure(chosen.measure, chosen.micro_batch, checkpointing=chosen.checkpointing)))
    elif torch.cuda.is_available():
        print("on CUDA, training.py prints peak and plan of the 8B model", file=sys.stderr)
    else:
        for micro_batch, checkpointing in CASES:
            compare(micro_batch, checkpointing=checkpointing)


def compare(micro_batch: int, *, checkpointing: bool) -> None:
    """Both sides in alternation."""
    found: dict[str, list[float]] = {"ours": [], "plain": []}
    planned = 0.0
    for _ in range(RUNS):
        for side, peaks in found.items():
            command = [sys.executable, __file__, "--measure", side, "--micro-batch", str(micro_batch)]
            command += ["--checkpointing"] if checkpointing else []
            line = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
            measured = json.loads(line)
            peaks.append(measured["peak_gib"])
            planned = measured["planned_gib"]
    report(
        f"peak of training, micro-batch {micro_batch}, {'with' if checkpointing else 'no'} checkpointing",
        found["ours"],
        found["plain"],
        "GiB",
        planned_gib=round(planned, 2),
        plan_over_peak=round(planned / median(found["ours"]), 3),
    )


def measure(side: str, micro_batch: int, *, checkpointing: bool) -> dict[str, float]:
    """Train on the four longest pairs and return the peak of resident memory, in GiB, and what was planned."""
    import training

    cfg = settings()
    cfg.memory.micro_batch, cfg.memory.gradient_checkpointing = micro_batch, checkpointing
    pairs = sorted(real_pairs(cfg), key=lambda pair: sum(lengths(pair)), reverse=True)[:4]
    models = Models(model_files.locate(cfg.model.name, cfg.model.revision), cfg.model.dtype, "cpu")
    plan = Plan(models.base.config, cfg, "cpu").fit_training([lengths(pair) for pair in pairs]).total
    _, references = training.timed_references(models, pairs, cfg)
    with MemoryMeter().measure() as peak:
        if side == "ours":
            training.train_ours(models, pairs, references, cfg)
        else:
            training.train_plain(models, pairs, cfg.train, Choice("eager", micro_batch, False, checkpointing))
        return {"peak_gib": peak.bytes() / GIB, "planned_gib": plan / GIB}


if __name__ == "__main__":
    main()
