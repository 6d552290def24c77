"""The type of number follows what the machine multiplies fast."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from selfreward.compose import compose_run
from selfreward.precision import fast_dtype


@pytest.mark.parametrize(
    ("flags", "dtype"),
    [
        ("flags : fpu avx512f avx512_bf16 sha_ni", "bfloat16"),
        ("flags : fpu amx_bf16 amx_tile", "bfloat16"),
        ("Features : fp asimd bf16 i8mm", "bfloat16"),
        ("flags : fpu avx avx2 avx512f", "float32"),
        ("", "float32"),
    ],
)
def test_a_cpu_computes_in_bfloat16_where_it_has_instructions_for_it(tmp_path: Path, flags: str, dtype: str) -> None:
    (tmp_path / "cpuinfo").write_text(flags)
    assert fast_dtype("cpu", tmp_path / "cpuinfo") == dtype


def test_where_nothing_is_known_of_the_cpu_it_computes_in_float32(tmp_path: Path) -> None:
    assert fast_dtype("cpu", tmp_path / "missing") == "float32"


def test_a_gpu_computes_in_bfloat16_whatever_the_cpu_does(tmp_path: Path) -> None:
    assert fast_dtype("cuda", tmp_path / "missing") == "bfloat16"


def test_the_small_model_takes_what_is_fast_here_and_a_large_one_bfloat16_everywhere() -> None:
    assert compose_run([]).model.dtype == fast_dtype("auto")
    assert compose_run(["engine.device=cuda"]).model.dtype == "bfloat16"
    assert compose_run(["model=llama3-8b"]).model.dtype == "bfloat16"


def test_what_is_asked_for_is_taken() -> None:
    assert compose_run(["model.dtype=float16"]).model.dtype == "float16"


def test_a_machine_without_a_gpu_is_looked_at_without_torch() -> None:
    look = (
        "import sys; from selfreward.precision import fast_dtype; fast_dtype('cpu'); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", look]).returncode == 0
