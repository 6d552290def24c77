"""`python -m selfreward.memory`: the plan of a run as a person reads it, from a model's configuration alone."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest

from selfreward.cap import GIB
from selfreward.memory.__main__ import main
from selfreward.memory.plan import Plan
from tests.unit.planning import LLAMA_70B, default, slow, tiny


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """`python -m selfreward.memory` with these arguments: its exit code, and what it writes."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["selfreward.memory", *arguments])
        try:
            code: Any = main() or 0
        except SystemExit as ended:
            code = ended.code
        written = capsys.readouterr()
        return code, written.out, written.err

    return run


def cards(text: str) -> dict[str, list[str]]:
    """Of the table's rows for cards of some sizes: what follows the size."""
    return {row[0]: row[1:] for row in map(str.split, text.splitlines()) if row and row[0] in {"24", "48", "64", "80"}}


def test_on_a_cpu_the_plan_is_printed_from_the_configuration_alone(command: Command, tmp_path: Path) -> None:
    tiny().save_pretrained(tmp_path)
    for model in ("model=smollm2-135m-embedded", f"model.name={tmp_path}"):
        code, out, err = command(model, "engine.device=cpu", "memory.ram_gb=8")
        assert (code, err, cards(out)) == (0, "", {})
        assert "memory plan, GiB" in out
        for row in ("libraries", "weights", "adapter", "gradients", "optimiser", "activations", "keys and values"):
            assert re.search(rf"^ {row} +\d+\.\d\d", out, re.MULTILINE)
        (sums,) = re.findall(r"^ sum (.*)", out, re.MULTILINE)
        assert all(0.8 < float(total) < 8 for total in sums.split())
        assert re.search(r"^ memory\.ram_gb +8\.00 +8\.00 +8\.00", out, re.MULTILINE)
        assert "micro-batches of" in out


@slow
def test_for_a_gpu_it_says_what_fits_on_cards_of_several_sizes(command: Command) -> None:
    code, out, _ = command("model.name=meta-llama/Meta-Llama-3-70B-Instruct", "train.quantization=nf4")
    assert code == 0
    fits = cards(out)
    assert fits["24"][0] == "none" and "memory.cap_gb=" in out
    cfg = default(train__quantization="nf4")
    plan = None
    for size in (48, 64, 80):
        plan = Plan(LLAMA_70B, cfg, "cuda", limit_gb=size, like=plan)
        fit = plan.fit_training(plan.costs.longest_batch)
        checkpointing = "yes" if fit.gradient_checkpointing else "no"
        expected = [str(fit.micro_batch), checkpointing, f"{fit.total / GIB:.1f}", str(plan.sampling_rows)]
        assert fits[str(size)] == [*expected, f"{plan.scoring_tokens:,}"]


@pytest.fixture(scope="module")
def llama_8b() -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "selfreward.memory", "model=llama3-8b", "train.max_length=2048"]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment)


@slow
def test_it_can_be_called_by_its_name(llama_8b: subprocess.CompletedProcess[str]) -> None:
    sums = {size: float(row[2]) for size, row in cards(llama_8b.stdout).items()}
    assert [*sums] == ["24", "48", "64", "80"]
    assert all(15 < total < int(size) for size, total in sums.items())
    assert "meta-llama/Meta-Llama-3-8B-Instruct, bfloat16\n" in llama_8b.stdout


@slow
def test_a_person_sees_no_warning_of_a_library(llama_8b: subprocess.CompletedProcess[str]) -> None:
    assert llama_8b.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("model.name=/nowhere", "model.name=/nowhere: no configuration of it was found .*; name a folder"),
        ("model.name=nobody/nothing", "model.name=nobody/nothing: no configuration of it was found .*; name a folder"),
        ("memory.cap_gp=3", r"memory.cap_gp=...: there is no such key; did you mean memory.cap_gb\?"),
        ("model=nothing", "In 'config': Could not find 'model/nothing' .*llama3-8b"),
        (
            "memory.ram_gb=0.5 sampling.max_prompt_tokens=64 train.max_length=160 train.batch_size=1",
            r"memory.ram_gb=0.5: training needs 1.\d GiB; use memory.ram_gb=1.\d$",
        ),
        pytest.param("sampling.n=0", "sampling.n=0: use a number of at least 2"),
        pytest.param("train.loss=sigmund", "train.loss=sigmund: use one of sigmoid"),
        pytest.param("train.max_length=10", "train.max_length=10: .*set it to 608 or more"),
        pytest.param("+nothing=1", "nothing=...: there is no such key"),
    ],
)
def test_a_mistake_is_said_in_one_line(command: Command, arguments: str, message: str) -> None:
    code, _, err = command("engine.device=cpu", *arguments.split())
    assert code == 2
    assert re.match(f"error: {message}", err)
    assert len(err.splitlines()) == 1
