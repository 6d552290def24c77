"""What a run takes is known before anything loads, its work is cut to fit, and what can't fit is refused with a remedy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import peft
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import DynamicCache
from transformers.models.llama import LlamaConfig, LlamaForCausalLM

from selfreward.cap import CONTEXT_GIB, GIB
from selfreward.config import RunConfig
from selfreward.errors import ConfigError
from selfreward.memory.plan import LIBRARIES_GIB, Parts, Plan, TrainingFit
from selfreward.memory.shapes import model_config
from selfreward.memory.trace import Skeleton
from selfreward.models import fresh_adapter

LLAMA_8B = model_config("meta-llama/Meta-Llama-3-8B-Instruct", None)
LLAMA_70B = model_config("meta-llama/Meta-Llama-3-70B-Instruct", None)
SIZES = [4, 3, 2, 1]


def tiny(**changes: Any) -> LlamaConfig:
    shape = {"vocab_size": 600, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
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

    def training(self, pairs: Sequence[tuple[int, int, int]], *, checkpointing: bool) -> Parts:
        known: dict[Any, Parts] = vars(self).setdefault("known", {})
        key = (*pairs, checkpointing)
        if key not in known:
            known[key] = super().training(pairs, checkpointing=checkpointing)
        return known[key]


@pytest.fixture(scope="module")
def plan() -> Remembered:
    return Remembered(tiny(), short(), "cpu")


def total(plan: Plan, size: int, *, checkpointing: bool) -> int:
    return sum(plan.training(plan.longest_batch[:size], checkpointing=checkpointing).values())


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


@pytest.mark.parametrize(("config", "least", "most"), [(LLAMA_8B, 5, 6), (LLAMA_70B, 35, 40)], ids=["8B", "70B"])
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
        filled = DynamicCache(config=config)
        with torch.inference_mode():
            model.model(input_ids=torch.ones(rows, tokens, dtype=torch.long), past_key_values=filled)
        return sum(t.nbytes for layer in filled.layers for t in (layer.keys, layer.values) if t is not None)

    answers = cache(6, 40 + 12)
    assert plan.sampling(6)["keys and values"] == answers + answers // 3  # a layer's is there twice while it grows
    judged = 40 + 12 + 512  # a judge's prompt: a prompt, an answer, and its own words
    assert plan.scoring(2 * judged)["keys and values"] == cache(2, judged)


LENGTHS = st.tuples(st.integers(1, 120), st.integers(1, 60), st.integers(1, 60))


@pytest.mark.slow
@settings(max_examples=8)
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


@pytest.mark.parametrize(("phase", "most", "least"), [("sampling_rows", 64, 4), ("scoring_tokens", 2048, 256)])
def test_rows_and_scoring_tokens_are_halved_until_they_fit(phase: str, most: int, least: int) -> None:
    cost = {"sampling_rows": Plan.sampling, "scoring_tokens": Plan.scoring}[phase]

    def chosen(limit_gb: float | None, **explicit: Any) -> int:
        cfg = default(model__dtype="float32", **{f"memory__{key}": value for key, value in explicit.items()})
        return getattr(Plan(tiny(), cfg, "cpu", limit_gb), phase)

    def takes(amount: int) -> float:
        return sum(cost(Plan(tiny(), default(model__dtype="float32"), "cpu"), amount).values()) / GIB

    assert chosen(None) == most
    assert chosen(takes(most)) == most
    halved = chosen((takes(most) + takes(most // 2)) / 2 if takes(most // 2) < takes(most) else None)
    assert halved in (most, most // 2)
    assert takes(chosen(takes(least))) <= takes(least)
    with pytest.raises(ConfigError, match=rf"{phase.split('_')[0]} needs"):
        chosen(takes(least) - 1 / GIB)
    assert chosen(takes(least), **{phase: least}) == least
    with pytest.raises(ConfigError, match=rf"memory\.{phase}=\d+ or memory\.ram_gb="):
        chosen(takes(most) - 1 / GIB, **{phase: most})
