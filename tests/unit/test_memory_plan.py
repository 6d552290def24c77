"""What a run takes is known before anything loads, its work is cut to fit, and what can't fit is refused."""

from __future__ import annotations

import copy
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import peft
import psutil
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from transformers import AutoConfig, DynamicCache
from transformers.models.llama import LlamaConfig, LlamaForCausalLM

from selfreward.cap import CONTEXT_GIB, GIB
from selfreward.config import RunConfig, validate
from selfreward.errors import ConfigError
from selfreward.kinds import KINDS
from selfreward.memory.__main__ import main
from selfreward.memory.plan import LIBRARIES_GIB, Parts, Plan, TrainingFit
from selfreward.memory.shapes import model_config
from selfreward.memory.trace import Skeleton
from selfreward.models import fresh_adapter
from selfreward.stages.tools import Tools
from tests.unit.making import tools

LLAMA_8B = model_config("meta-llama/Meta-Llama-3-8B-Instruct", None)
LLAMA_70B = model_config("meta-llama/Meta-Llama-3-70B-Instruct", None)
SIZES = [4, 3, 2, 1]

slow = pytest.mark.slow


def tiny(**changes: Any) -> LlamaConfig:
    shape: dict[str, Any] = {"vocab_size": 600, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True}
    return LlamaConfig(**shape | heads | changes)


def short(**overrides: Any) -> RunConfig:
    """Settings for short texts: pairs of 40, 12 and 12 tokens, four in a step. `a__b=c` sets `a.b`."""
    lengths = {"sampling__max_prompt_tokens": 40, "sampling__max_new_tokens": 12, "evaluation__max_new_tokens": 12}
    return default(**{"model__dtype": "float32", "train__max_length": 52, **lengths, **overrides})


def default(**overrides: Any) -> RunConfig:
    cfg = RunConfig()
    cfg.model.name, cfg.prompts.kind = "somewhere", "seed_pool"
    for key, value in overrides.items():
        override(cfg, key.replace("__", "."), value)
    return cfg


def override(cfg: RunConfig, key: str, value: Any) -> None:
    *groups, name = key.split(".")
    group: Any = cfg
    for part in groups:
        group = getattr(group, part)
    assert hasattr(group, name), key
    setattr(group, name, value)


class Remembered(Plan):
    """A plan that traces nothing twice, for properties over many limits."""

    def training(self, pairs: Sequence[tuple[int, int, int]], *, checkpointing: bool, later: bool = False) -> Parts:
        known: dict[Any, Parts] = vars(self).setdefault("known", {})
        key = (*pairs, checkpointing, later)
        if key not in known:
            known[key] = super().training(pairs, checkpointing=checkpointing, later=later)
        return known[key]


@pytest.fixture(scope="module")
def plan() -> Remembered:
    return Remembered(tiny(), short(), "cpu")


def total(plan: Plan, size: int, *, checkpointing: bool) -> int:
    """Of training in micro-batches of that many of a step's four pairs."""
    batch = plan.longest_batch[:size]
    return sum(plan.training(batch, checkpointing=checkpointing, later=size < 4).values())


# What it takes


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_phase_s_parts_are_bytes_that_add_up(device: str) -> None:
    cfg = short()
    plan = Plan(tiny(), cfg, device)
    pairs = plan.longest_batch
    assert pairs == [(40, 12, 12)] * 4
    for phase in (plan.training(pairs, checkpointing=False), plan.sampling(8), plan.scoring(1000)):
        assert all(isinstance(size, int) and size >= 0 for size in phase.values())
        assert plan.fixed.items() <= phase.items()
    traced = Skeleton(tiny(), "float32", fresh_adapter(cfg.train.lora), eager=device == "cpu")
    parts = plan.training(pairs, checkpointing=False)
    optimiser = 2 * parts["gradients"]
    assert parts["optimiser"] == optimiser
    moving = traced.training_bytes(pairs, checkpointing=False)
    fit = TrainingFit(4, False, parts)
    assert fit.total == sum(parts.values()) == sum(plan.fixed.values()) + optimiser + moving


def test_a_process_takes_some_before_its_first_tensor() -> None:
    assert Plan(tiny(), short(), "cpu").fixed["libraries"] == int(LIBRARIES_GIB * GIB)
    assert Plan(tiny(), short(), "cuda").fixed["CUDA context"] == int(CONTEXT_GIB * GIB)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("tied", [True, False])
def test_weights_and_adapter_are_those_of_the_real_model(tied: bool, dtype: str) -> None:
    config = tiny(tie_word_embeddings=tied, num_hidden_layers=3)
    cfg = short(model__dtype=dtype, train__lora__r=8)
    base = LlamaForCausalLM(config).to(getattr(torch, dtype)).requires_grad_(False)
    fixed = Plan(config, cfg, "cpu").fixed
    assert fixed["weights"] == sum(parameter.nbytes for parameter in base.parameters())
    model = peft.get_peft_model(base, fresh_adapter(cfg.train.lora))
    assert fixed["adapter"] == sum(p.nbytes for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize(
    ("config", "least", "most"), [(LLAMA_8B, 5, 6), pytest.param(LLAMA_70B, 35, 40, marks=slow)], ids=["8B", "70B"]
)
def test_nf4_takes_about_half_a_byte_a_weight(config: Any, least: float, most: float) -> None:
    quantised, plain = (Plan(config, default(train__quantization=q), "cuda").fixed for q in ("nf4", "none"))
    assert least < quantised["weights"] / GIB < most
    assert quantised["weights"] > plain["weights"] / 4  # embeddings stay as they are
    assert quantised["adapter"] == plain["adapter"]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_keys_and_values_are_those_of_a_real_cache(dtype: str) -> None:
    config = tiny(num_hidden_layers=3)
    plan = Plan(config, short(model__dtype=dtype, sampling__n=3), "cpu")
    model = LlamaForCausalLM(config).to(getattr(torch, dtype))

    def cache(rows: int, tokens: int) -> int:
        filled: Any = DynamicCache(config=config)
        with torch.inference_mode():
            model.model(input_ids=torch.ones(rows, tokens, dtype=torch.long), past_key_values=filled)
        return sum(t.nbytes for layer in filled.layers for t in (layer.keys, layer.values))

    answers = cache(6, 40 + 12)
    assert plan.sampling(6)["keys and values"] == answers + answers // 3  # a layer's is there twice while it grows
    judged = 40 + 12 + 512  # a judge's prompt: a prompt, an answer, and its own words
    assert plan.scoring(2 * judged)["keys and values"] == cache(2, judged)


LENGTHS = st.tuples(st.integers(1, 120), st.integers(1, 60), st.integers(1, 60))


@slow
@settings(max_examples=6)
@given(pairs=st.lists(LENGTHS, min_size=1, max_size=3), more=LENGTHS, longer=st.tuples(*[st.integers(0, 40)] * 3))
def test_more_work_never_takes_less(
    plan: Plan, pairs: list[tuple[int, int, int]], more: tuple[int, int, int], longer: tuple[int, int, int]
) -> None:
    grown = [(pairs[0][0] + longer[0], pairs[0][1] + longer[1], pairs[0][2] + longer[2]), *pairs[1:]]
    takes = {
        checkpointing: [sum(plan.training(p, checkpointing=checkpointing).values()) for p in (pairs, grown)]
        for checkpointing in (False, True)
    }
    assert takes[True][0] <= takes[False][0]
    for checkpointing, (before, after) in takes.items():
        assert before <= after
        assert before <= sum(plan.training([*pairs, more], checkpointing=checkpointing).values())


# What is chosen


@settings(max_examples=50)
@given(limit=st.integers(int(0.8 * GIB), int(0.81 * GIB)), other=st.integers(int(0.8 * GIB), int(0.81 * GIB)))
def test_the_first_cut_that_fits_is_taken(plan: Remembered, limit: int, other: int) -> None:
    """Checkpointing comes last, and within each the largest micro-batch first: so more memory never means less."""
    order = [(size, checkpointing) for checkpointing in (False, True) for size in SIZES]
    fitting = [cut for cut in order if total(plan, cut[0], checkpointing=cut[1]) <= limit]
    plan.limit_gb = limit / GIB
    if not fitting:
        with pytest.raises(ConfigError):
            plan.fit_training(plan.longest_batch)
        return
    fit = plan.fit_training(plan.longest_batch)
    assert (fit.micro_batch, fit.gradient_checkpointing) == fitting[0]
    assert fit.total <= limit
    if other >= limit:
        plan.limit_gb = other / GIB
        roomier = plan.fit_training(plan.longest_batch)
        assert roomier.gradient_checkpointing <= fit.gradient_checkpointing
        if roomier.gradient_checkpointing == fit.gradient_checkpointing:
            assert roomier.micro_batch >= fit.micro_batch


@pytest.mark.parametrize(("checkpointing", "size"), [(c, s) for c in (False, True) for s in (1, 3)])
def test_settings_are_kept_to_or_refused(checkpointing: bool, size: int) -> None:
    cfg = short(memory__micro_batch=size, memory__gradient_checkpointing=checkpointing)
    plan = Plan(tiny(), cfg, "cpu")
    fit = plan.fit_training(plan.longest_batch)
    assert (fit.micro_batch, fit.gradient_checkpointing) == (size, checkpointing)
    plan.limit_gb = (fit.total - 1) / GIB
    with pytest.raises(ConfigError, match=r"training needs"):
        plan.fit_training(plan.longest_batch)


def test_a_loss_that_couples_pairs_gets_its_whole_batch() -> None:
    plan = Remembered(tiny(), short(train__loss="aot"), "cpu")
    assert plan.fit_training(plan.longest_batch).micro_batch == 4
    plan.limit_gb = total(plan, 4, checkpointing=True) / GIB
    fit = plan.fit_training(plan.longest_batch)
    assert (fit.micro_batch, fit.gradient_checkpointing) == (4, True)
    plan.limit_gb = total(plan, 3, checkpointing=True) / GIB
    with pytest.raises(ConfigError) as caught:
        plan.fit_training(plan.longest_batch)
    assert "memory.micro_batch" not in caught.value.remedy


def test_a_micro_batch_is_no_larger_than_helps() -> None:
    """On a CPU a micro-batch of more than about a thousand tokens is no faster."""
    plan = Plan(tiny(), short(train__batch_size=64), "cpu")
    assert plan.fit_training([(40, 12, 12)] * 64).micro_batch == 1024 // 64
    assert plan.fit_training([(2000, 12, 12)] * 64).micro_batch == 1
    assert plan.fit_training([(2000, 12, 12)] + [(40, 12, 12)] * 63).micro_batch == 1  # the longest decide
    assert plan.fit_training([(40, 12, 12)] * 3).micro_batch == 3  # there are no more


@pytest.mark.parametrize(
    ("phase", "amounts"), [("sampling", [64, 32, 16, 8, 4]), ("scoring", [2048, 1024, 512, 256])], ids=str
)
def test_rows_and_scoring_tokens_are_halved_until_they_fit(phase: str, amounts: list[int]) -> None:
    name = {"sampling": "sampling_rows", "scoring": "scoring_tokens"}[phase]

    def chosen(limit: int, explicit: int | None = None) -> int:
        return getattr(Plan(tiny(), short(**{f"memory__{name}": explicit}), "cpu", limit / GIB), name)

    plan = Plan(tiny(), short(), "cpu")
    takes = {amount: sum(getattr(plan, phase)(amount).values()) for amount in amounts}
    for limit in takes.values():
        assert chosen(limit) == next(amount for amount in amounts if takes[amount] <= limit)
    most, least = amounts[0], amounts[-1]
    with pytest.raises(ConfigError, match=f"{phase} needs"):
        chosen(takes[least] - 1)
    assert chosen(takes[most], explicit=most) == most
    with pytest.raises(ConfigError, match=rf"{phase} needs .* GiB; use .*memory\.ram_gb="):
        chosen(takes[most] - 1, explicit=most)


def test_no_fewer_rows_are_named_than_a_prompt_has_answers() -> None:
    cfg = short(memory__sampling_rows=64, sampling__n=8)
    plan = Plan(tiny(), cfg, "cpu")
    plan.limit_gb = sum(plan.sampling(4).values()) / GIB
    with pytest.raises(ConfigError) as caught:
        _ = plan.sampling_rows
    assert not re.search(r"sampling_rows=[1-7] ", caught.value.remedy)


def test_planning_changes_no_setting() -> None:
    cfg = short(train__quantization="nf4", train__batch_size=2)
    before = copy.deepcopy(cfg)
    plan = Plan(tiny(), cfg, "cuda", limit_gb=1)
    plan.fit_training(plan.longest_batch)
    with pytest.raises(ConfigError):
        Plan(tiny(), cfg, "cuda", limit_gb=0.5).check()
    assert cfg == before


def test_the_limit_is_the_device_s() -> None:
    assert Plan(tiny(), short(memory__cap_gb=10, memory__ram_gb=3), "cuda").limit_gb == 10
    assert Plan(tiny(), short(memory__cap_gb=10, memory__ram_gb=3), "cpu").limit_gb == 3
    assert Plan(tiny(), short(), "cpu").limit_gb == psutil.virtual_memory().total / GIB
    preflights = [Plan(tiny(), short(memory__ram_gb=ram), d).preflight for d, ram in [("cuda", None), ("cpu", 3)]]
    assert preflights == [True, True]
    assert not Plan(tiny(), short(), "cpu").preflight


@slow
@pytest.mark.parametrize("kind", ["gpt2", "opt", "falcon", "mixtral", "deepseek_v3"])
def test_every_model_has_a_plan(kind: str) -> None:
    Plan(AutoConfig.for_model(kind), default(), "cuda", limit_gb=1e6).check()


# What is refused


def test_what_does_not_fit_is_refused_before_any_weights_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny().save_pretrained(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
    monkeypatch.setattr("selfreward.models.Models", lambda *_, **__: pytest.fail("the model was loaded"))
    cfg = short(memory__ram_gb=0.5, engine__device="cpu", train__batch_size=1)
    shown: list[Any] = []
    with pytest.raises(ConfigError) as caught:
        _ = Tools(tools().pool, tmp_path, cfg, shown.append).models
    assert (caught.value.key, caught.value.exit_code) == ("memory.ram_gb", 2)
    message = r"memory\.ram_gb=0\.5: training needs 0\.9 GiB; use .*memory\.ram_gb=0\.\d"
    assert re.fullmatch(message, str(caught.value))  # a dot matches no end of a line
    assert not shown


def test_what_is_needed_is_said_to_be_more_than_there_is(plan: Remembered) -> None:
    plan.limit_gb = (total(plan, 1, checkpointing=True) - 1) / GIB
    with pytest.raises(ConfigError, match=r"training needs") as caught:
        plan.fit_training(plan.longest_batch)
    assert float(caught.value.remedy.split()[2]) > plan.limit_gb


def slowly(*case: Any) -> Any:
    return pytest.param(*case, marks=slow)


@pytest.mark.parametrize(
    ("config", "limit", "overrides"),
    [
        (tiny(), 0.9, {}),
        (LLAMA_8B, 18, {"memory__micro_batch": 4, "memory__gradient_checkpointing": False}),
        slowly(LLAMA_8B, 48, {"memory__micro_batch": 3, "memory__gradient_checkpointing": False}),
        slowly(LLAMA_8B, 16, {}),
        slowly(LLAMA_70B, 80, {}),
        slowly(LLAMA_8B, 17, {"train__max_length": 8192, "train__batch_size": 1}),
        slowly(LLAMA_70B, 42, {"train__quantization": "nf4"}),
        slowly(tiny(), 0.5, {}),
        slowly(tiny(), 0.85, {"memory__sampling_rows": 64, "memory__scoring_tokens": 4096}),
        slowly(LLAMA_8B, 24, {"memory__sampling_rows": 256, "memory__scoring_tokens": 32768}),
        slowly(tiny(), 0.9, {"train__loss": "aot"}),
        slowly(LLAMA_8B, 18, {"train__loss": "aot"}),
        slowly(LLAMA_8B, 8, {"memory__micro_batch": 4, "memory__gradient_checkpointing": False}),
        slowly(LLAMA_70B, 24, {}),
        slowly(tiny(), 0.81, {}),
    ],
)
def test_every_remedy_helps(config: Any, limit: float, overrides: dict[str, Any]) -> None:
    device, key = ("cuda", "memory__cap_gb") if limit > 2 else ("cpu", "memory__ram_gb")
    cfg = default(**{"train__max_length": 2048 if limit > 2 else 1024, key: limit} | overrides)
    with pytest.raises(ConfigError) as caught:
        Plan(config, cfg, device).check()
    assert len(str(caught.value).splitlines()) == 1
    choices = caught.value.remedy.partition("; use ")[2].split(" or ")
    assert f"{key.replace('__', '.')}=" in choices[-1]
    for choice in choices:
        mended: Any = OmegaConf.to_object(OmegaConf.merge(cfg, OmegaConf.from_dotlist(choice.split())))
        assert mended != cfg
        validate(mended, KINDS)
        Plan(config, mended, device).check()


# The command


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
    for size in (48, 64, 80):
        plan = Plan(LLAMA_70B, cfg, "cuda", limit_gb=size)
        fit = plan.fit_training(plan.longest_batch)
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
