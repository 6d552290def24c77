"""What only a CUDA device can show."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from selfreward.cap import GIB, MemoryMeter, available_gb, enforce_cap
from selfreward.config import RunConfig, artifacts_dir
from selfreward.store import digests
from tests.loop.helpers import run_loop

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")]


def test_the_loop_runs_on_the_gpu_in_bfloat16(tiny_config: RunConfig) -> None:
    tiny_config.engine.device = "cuda"
    tiny_config.model.dtype = "bfloat16"
    tiny_config.iteration = 2
    made = run_loop(tiny_config)
    assert made[2]["policy"].metrics["loss"][0] == pytest.approx(0.6931, abs=0.02)
    assert digests(artifacts_dir(tiny_config))


def test_the_cap_is_kept_by_the_allocator() -> None:
    enforce_cap(1.0)
    try:
        with pytest.raises(torch.OutOfMemoryError):
            torch.empty(2 * GIB, dtype=torch.uint8, device="cuda")
    finally:
        enforce_cap(1e6)


def test_what_is_free_is_less_than_the_card_and_what_was_freed_is_free() -> None:
    total = torch.cuda.get_device_properties(0).total_memory / GIB
    before = available_gb("cuda")
    block = torch.empty(GIB // 4, dtype=torch.uint8, device="cuda")
    del block  # the allocator keeps it
    assert before == pytest.approx(available_gb("cuda"), abs=0.1)
    assert 0 < before < total


def test_the_meter_measures_the_stage_and_not_what_came_before() -> None:
    block = torch.empty(GIB // 4, dtype=torch.uint8, device="cuda")
    del block
    torch.cuda.empty_cache()
    with MemoryMeter().measure() as peak:
        small = torch.empty(GIB // 16, dtype=torch.uint8, device="cuda")
        assert small.numel() <= peak.bytes() < GIB // 4


def test_the_allocator_lengthens_what_it_holds() -> None:
    code = (
        "import selfreward.cap as cap; cap.let_segments_grow(); import torch; torch.zeros(1, device='cuda')\n"
        "print(torch.cuda.memory._snapshot()['allocator_settings']['expandable_segments'])"
    )
    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert printed.strip() == "True"
