"""The cap is kept, running out of memory is told from other errors, and the peak is measured."""

from __future__ import annotations

import gc
import os
import subprocess
import sys

import psutil
import pytest
import torch

from selfreward.cap import (
    GIB,
    MemoryMeter,
    check_resident,
    is_out_of_memory,
    let_segments_grow,
    main_memory,
    release,
    resident_bytes,
)
from selfreward.errors import ConfigError, OutOfMemoryError
from selfreward.explain import explain

MIB = 1 << 20

on_a_cpu_under_linux = pytest.mark.skipif(
    sys.platform != "linux" or torch.cuda.is_available(), reason="resident memory is given back and measured on Linux"
)


def floats(mib: int) -> torch.Tensor:
    """A tensor of that many MiB, each page of it written to."""
    return torch.ones(mib * MIB // 4)


# What may be held


def test_a_process_within_its_limit_is_left_alone() -> None:
    check_resident(2 * resident_bytes() / GIB)


def test_a_process_above_its_limit_is_stopped_and_told_what_it_holds() -> None:
    release()  # what earlier tests have freed is given back first, and counts no more
    limit, held = resident_bytes() / 2 / GIB, resident_bytes() / GIB
    with pytest.raises(OutOfMemoryError, match=r"^memory\.ram_gb=\S+: the process holds (\d+\.\d\d) GiB$") as caught:
        check_resident(limit)
    assert f"memory.ram_gb={limit:g}:" in str(caught.value)
    assert float(str(caught.value).split()[-2]) == pytest.approx(held, abs=0.02)


def test_without_a_limit_nothing_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("selfreward.cap.resident_bytes", lambda: pytest.fail("it was looked at"))
    check_resident(None)


@pytest.mark.skipif(torch.cuda.is_available(), reason="it would cap the other tests")
@pytest.mark.parametrize("name", ["PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"])
def test_what_a_person_told_the_allocator_stays(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    both = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
    for one in both:
        monkeypatch.delenv(one, raising=False)
    monkeypatch.setenv(name, "max_split_size_mb:64")
    let_segments_grow()
    assert {one: os.environ[one] for one in both if one in os.environ} == {name: "max_split_size_mb:64"}


# Running out


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        MemoryError(),
        OutOfMemoryError("memory.ram_gb=1: the process holds 1.10 GiB"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_memory_that_ran_out_is_known_by_whoever_ran_out_of_it(error: BaseException) -> None:
    assert is_out_of_memory(error)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 2x3)"),
        RuntimeError("CUDA error: device-side assert triggered"),
        ValueError("out of memory"),
        OSError(28, "No space left on device"),
        ConfigError("memory.ram_gb", 1, "training needs 2 GiB"),
        KeyboardInterrupt(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_no_other_error_is_taken_for_it(error: BaseException) -> None:
    assert not is_out_of_memory(error)


@pytest.mark.parametrize(
    ("size", "ran_out"), [(1 << 50, True), (1 << 62, False)], ids=["more than there is", "more than can be counted"]
)
def test_pytorch_has_no_type_for_it_on_a_cpu_but_a_message(size: int, ran_out: bool) -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(size)
    assert is_out_of_memory(caught.value) == ran_out


# Giving back


@on_a_cpu_under_linux
def test_a_large_tensor_in_a_dropped_cycle_is_given_back() -> None:
    gc.collect()
    gc.disable()  # or the cycle might be gone before we ask
    try:
        before = resident_bytes()
        cycle: list[object] = [floats(512)]
        cycle.append(cycle)
        del cycle
        assert resident_bytes() - before > 500 * MIB
        release()
        assert resident_bytes() - before < 50 * MIB
    finally:
        gc.enable()


@on_a_cpu_under_linux
def test_what_was_freed_does_not_count_against_the_limit() -> None:
    release()
    limit = (resident_bytes() + 200 * MIB) / GIB
    pieces = [torch.ones(64 << 10 >> 2) for _ in range(512 * 16)]
    last = pieces[-1]  # it sits on top of the others, so that the heap can't shrink by itself
    with pytest.raises(OutOfMemoryError):
        check_resident(limit)
    del pieces
    assert resident_bytes() > limit * GIB
    check_resident(limit)
    assert last.sum() == 64 << 10 >> 2


@on_a_cpu_under_linux
def test_so_are_many_small_ones_that_the_allocator_would_keep() -> None:
    release()
    before = resident_bytes()
    pieces = [torch.ones(64 << 10 >> 2) for _ in range(512 * 16)]
    last = pieces[-1]  # it sits on top of the others, so that the heap can't shrink by itself
    del pieces
    held = resident_bytes()
    release()
    assert held - resident_bytes() > 400 * MIB
    assert resident_bytes() - before < 50 * MIB
    assert last.sum() == 64 << 10 >> 2


# Measuring


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2.00 GiB."), "CUDA out of memory."),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "DefaultCPUAllocator: can't allocate memory"),
        (MemoryError(), "MemoryError"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_memory_that_runs_out_while_it_is_measured_is_said_in_one_line_with_remedies(
    error: Exception, reason: str
) -> None:
    with pytest.raises(OutOfMemoryError) as caught, MemoryMeter().measure():
        raise error
    assert explain(caught.value) == (
        f"memory ran out ({reason}): lower memory.scoring_tokens, sampling.max_prompt_tokens or "
        "sampling.max_new_tokens, or allow more memory"
    )


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), OutOfMemoryError("one pair is too much; lower it")])
def test_any_other_error_and_one_that_names_its_remedy_stay_as_they_are(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, MemoryMeter().measure():
        raise error
    assert caught.value is error


@on_a_cpu_under_linux
def test_the_peak_is_measured_though_it_has_passed_and_can_be_forgotten() -> None:
    with MemoryMeter().measure() as peak:
        start = peak.bytes()
        assert start == pytest.approx(resident_bytes(), abs=16 * MIB)
        large = floats(256)
        assert peak.bytes() - start == pytest.approx(256 * MIB, abs=16 * MIB)
        del large
        assert peak.bytes() - start == pytest.approx(256 * MIB, abs=16 * MIB)
        peak.restart()
        assert peak.bytes() - start < 16 * MIB
        small = floats(64)
        assert peak.bytes() - start == pytest.approx(64 * MIB, abs=16 * MIB)
        del small


@on_a_cpu_under_linux
def test_each_measurement_starts_afresh() -> None:
    with MemoryMeter().measure() as first:
        floats(256)
        high = first.bytes()
    with MemoryMeter().measure() as second:
        assert high - second.bytes() > 200 * MIB


def test_measuring_loads_no_torch() -> None:
    """A run that reuses all it needs is over before torch would have loaded."""
    code = (
        "import sys; from selfreward.cap import MemoryMeter, release\n"
        "with MemoryMeter().measure() as peak: release(); assert peak.bytes() > 1 << 20\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("written", "least"),
    [(["1048576\n"], 1048576), (["max\n", "4096\n", "8192\n"], 4096), (["max\n"], None), ([], None)],
)
def test_the_least_limit_of_a_container_counts_as_the_machine_s_memory(
    monkeypatch: pytest.MonkeyPatch, written: list[str], least: int | None
) -> None:
    monkeypatch.setattr("selfreward.cap.limits", lambda name: written if name == "memory.max" else [])
    assert main_memory() == (least or psutil.virtual_memory().total)
