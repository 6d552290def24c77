"""What a run takes is known before anything loads, and its work is cut to fit."""

from __future__ import annotations

import copy
import re
from typing import Any

import peft
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, DynamicCache
from transformers.models.llama import LlamaForCausalLM

from selfreward.cap import CONTEXT_GIB, GIB, main_memory
from selfreward.errors import ConfigError
from selfreward.memory.costs import LIBRARIES_GIB
from selfreward.memory.plan import Plan, TrainingFit
from selfreward.memory.table import plan_table
from selfreward.memory.trace import Skeleton
from selfreward.model.lora import fresh_adapter
from tests.unit.planning import LLAMA_8B, LLAMA_70B, default, short, slow, tiny

SIZES = [4, 3, 2, 1]


@pytest.fixture(scope="module")
def plan() -> Plan:
    return Plan(tiny(), short(), "cpu")


def total(plan: Plan, size: int, *, checkpointing: bool) -> int:
    """Of training in micro-batches of that many of a step's four pairs."""
    batch = plan.costs.longest_batch[:size]
    return sum(plan.costs.training(batch, checkpointing=checkpointing, later=size < 4).values())


# What it takes


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_phase_s_parts_are_bytes_that_add_up(device: str) -> None:
    cfg = short()
    plan = Plan(tiny(), cfg, device)
    pairs = plan.costs.longest_batch
    assert pairs == [(40, 12, 12)] * 4
    for phase in (plan.costs.training(pairs, checkpointing=False), plan.costs.sampling(8), plan.costs.scoring(1000)):
        assert all(isinstance(size, int) and size >= 0 for size in phase.values())
        assert plan.costs.fixed.items() <= phase.items()
    traced = Skeleton(tiny(), "float32", cfg.train.lora, eager=device == "cpu")
    parts = plan.costs.training(pairs, checkpointing=False)
    optimiser = 2 * parts["gradients"]
    assert parts["optimiser"] == optimiser
    moving = traced.training_bytes(pairs, checkpointing=False)
    fit = TrainingFit(4, False, parts)
    assert fit.total == sum(parts.values()) == sum(plan.costs.fixed.values()) + optimiser + moving


def test_a_process_takes_some_before_its_first_tensor() -> None:
    assert Plan(tiny(), short(), "cpu").costs.fixed["libraries"] == int(LIBRARIES_GIB * GIB)
    assert Plan(tiny(), short(), "cuda").costs.fixed["CUDA context"] == int(CONTEXT_GIB * GIB)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("tied", [True, False])
def test_weights_and_adapter_are_those_of_the_real_model(tied: bool, dtype: str) -> None:
    config = tiny(tie_word_embeddings=tied, num_hidden_layers=3)
    cfg = short(model__dtype=dtype, train__lora__r=8)
    base = LlamaForCausalLM(config).to(getattr(torch, dtype)).requires_grad_(False)
    fixed = Plan(config, cfg, "cpu").costs.fixed
    assert fixed["weights"] == sum(parameter.nbytes for parameter in base.parameters())
    model = peft.get_peft_model(base, fresh_adapter(cfg.train.lora))
    assert fixed["adapter"] == sum(p.nbytes for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize(
    ("config", "least", "most"), [(LLAMA_8B, 5, 6), pytest.param(LLAMA_70B, 35, 40, marks=slow)], ids=["8B", "70B"]
)
def test_nf4_takes_about_half_a_byte_a_weight(config: Any, least: float, most: float) -> None:
    quantised, plain = (Plan(config, default(train__quantization=q), "cuda").costs.fixed for q in ("nf4", "none"))
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

    answers = cache(6, 40 + 12)  # held-out answers, one a prompt, take most
    assert plan.costs.sampling(6)["keys and values"] == answers + answers // 3  # a layer's is there twice for a moment
    judged = 40 + 2 * 12 + 512  # a duel: a prompt, two answers, and the judge's own words
    assert plan.costs.scoring(2 * judged)["keys and values"] == cache(2, judged)


LENGTHS = st.tuples(st.integers(1, 120), st.integers(1, 60), st.integers(1, 60))


@slow
@settings(max_examples=6)
@given(pairs=st.lists(LENGTHS, min_size=1, max_size=3), more=LENGTHS, longer=st.tuples(*[st.integers(0, 40)] * 3))
def test_more_work_never_takes_less(
    plan: Plan, pairs: list[tuple[int, int, int]], more: tuple[int, int, int], longer: tuple[int, int, int]
) -> None:
    grown = [(pairs[0][0] + longer[0], pairs[0][1] + longer[1], pairs[0][2] + longer[2]), *pairs[1:]]
    takes = {
        checkpointing: [sum(plan.costs.training(p, checkpointing=checkpointing).values()) for p in (pairs, grown)]
        for checkpointing in (False, True)
    }
    assert takes[True][0] <= takes[False][0]
    for checkpointing, (before, after) in takes.items():
        assert before <= after
        assert before <= sum(plan.costs.training([*pairs, more], checkpointing=checkpointing).values())


# What is chosen


@settings(max_examples=50)
@given(limit=st.integers(int(0.8 * GIB), int(0.81 * GIB)), other=st.integers(int(0.8 * GIB), int(0.81 * GIB)))
def test_the_first_cut_that_fits_is_taken(plan: Plan, limit: int, other: int) -> None:
    """Checkpointing comes last, and within each the largest micro-batch first: so more memory never means less."""
    order = [(size, checkpointing) for checkpointing in (False, True) for size in SIZES]
    fitting = [cut for cut in order if total(plan, cut[0], checkpointing=cut[1]) <= limit]
    plan.limit_gb = limit / GIB
    if not fitting:
        with pytest.raises(ConfigError):
            plan.fit_training(plan.costs.longest_batch)
        return
    fit = plan.fit_training(plan.costs.longest_batch)
    assert (fit.micro_batch, fit.gradient_checkpointing) == fitting[0]
    assert fit.total <= limit
    if other >= limit:
        plan.limit_gb = other / GIB
        roomier = plan.fit_training(plan.costs.longest_batch)
        assert roomier.gradient_checkpointing <= fit.gradient_checkpointing
        if roomier.gradient_checkpointing == fit.gradient_checkpointing:
            assert roomier.micro_batch >= fit.micro_batch


@pytest.mark.parametrize(("checkpointing", "size"), [(c, s) for c in (False, True) for s in (1, 3)])
def test_settings_are_kept_to_or_refused(checkpointing: bool, size: int) -> None:
    cfg = short(memory__micro_batch=size, memory__gradient_checkpointing=checkpointing)
    plan = Plan(tiny(), cfg, "cpu")
    fit = plan.fit_training(plan.costs.longest_batch)
    assert (fit.micro_batch, fit.gradient_checkpointing) == (size, checkpointing)
    plan.limit_gb = (fit.total - 1) / GIB
    with pytest.raises(ConfigError, match=r"training needs"):
        plan.fit_training(plan.costs.longest_batch)


def test_a_loss_that_couples_pairs_gets_its_whole_batch() -> None:
    plan = Plan(tiny(), short(train__loss="aot"), "cpu")
    assert plan.fit_training(plan.costs.longest_batch).micro_batch == 4
    plan.limit_gb = total(plan, 4, checkpointing=True) / GIB
    fit = plan.fit_training(plan.costs.longest_batch)
    assert (fit.micro_batch, fit.gradient_checkpointing) == (4, True)
    plan.limit_gb = total(plan, 3, checkpointing=True) / GIB
    with pytest.raises(ConfigError) as caught:
        plan.fit_training(plan.costs.longest_batch)
    assert "memory.micro_batch" not in caught.value.remedy


def test_a_micro_batch_is_no_larger_than_helps() -> None:
    """On a CPU a micro-batch of more than some 1,500 tokens is no faster."""
    plan = Plan(tiny(), short(train__batch_size=64), "cpu")
    assert plan.fit_training([(40, 12, 12)] * 64).micro_batch == 1536 // 64
    assert plan.fit_training([(2000, 12, 12)] * 64).micro_batch == 1
    assert plan.fit_training([(2000, 12, 12)] + [(40, 12, 12)] * 63).micro_batch == 1  # the longest decide
    assert plan.fit_training([(40, 12, 12)] * 3).micro_batch == 3  # there are no more


@pytest.mark.parametrize(
    ("phase", "amounts"), [("sampling", [64, 32, 16, 8, 4]), ("scoring", [2048, 1024, 512, 256])], ids=str
)
def test_rows_and_scoring_tokens_are_halved_until_they_fit(phase: str, amounts: list[int]) -> None:
    name = {"sampling": "sampling_rows", "scoring": "scoring_tokens"}[phase]

    def chosen(limit: int, explicit: int | None = None) -> int:
        return getattr(Plan(tiny(), short(**{f"memory__{name}": explicit}), "cpu", limit_gb=limit / GIB), name)

    plan = Plan(tiny(), short(), "cpu")
    takes = {amount: sum(getattr(plan.costs, phase)(amount).values()) for amount in amounts}
    for limit in takes.values():
        assert chosen(limit) == next(amount for amount in amounts if takes[amount] <= limit)
    most, least = amounts[0], amounts[-1]
    with pytest.raises(ConfigError, match=f"{phase} needs"):
        chosen(takes[least] - 1)
    assert chosen(takes[most], explicit=most) == most
    with pytest.raises(ConfigError, match=rf"{phase} needs .* GiB; use .*memory\.ram_gb="):
        chosen(takes[most] - 1, explicit=most)


def test_the_second_copy_of_the_weights_is_kept_where_it_fits_and_costs_no_rows() -> None:
    plan = Plan(tiny(), short(), "cpu")
    model = LlamaForCausalLM(tiny())
    layers = sum(p.nbytes for name, p in model.named_parameters() if "_proj" in name) + model.lm_head.weight.nbytes
    adapter = plan.costs.fixed["adapter"]  # in float32, like the model here
    assert plan.blocked_weights
    assert plan.sampling["blocked weights"] == plan.costs.blocked_weight_bytes == layers + adapter
    rows, enough = plan.sampling_rows, sum(plan.sampling.values())
    for limit, fits in ((enough, True), (enough - 1, False)):
        tight = Plan(tiny(), short(), "cpu", limit_gb=limit / GIB, like=plan)
        assert (tight.blocked_weights, tight.sampling_rows) == (fits, rows)
    assert not Plan(tiny(), short(speed__blocked_weights=False), "cpu").blocked_weights
    assert not Plan(tiny(), short(), "cuda").blocked_weights


@pytest.mark.parametrize(
    "written",
    [
        {"generation__kind": "self_instruct", "generation__max_new_tokens": 300},
        {"documents__path": "texts", "documents__max_new_tokens": 300},
    ],
    ids=["new prompts", "rephrasings"],
)
def test_what_a_policy_writes_besides_answers_is_planned_for(plan: Plan, written: dict[str, Any]) -> None:
    kept = plan.costs.sampling(8)["keys and values"]
    assert Plan(tiny(), short(**written), "cpu").costs.sampling(8)["keys and values"] > 10 * kept


def test_documents_that_are_not_rephrased_take_nothing(plan: Plan) -> None:
    read = short(documents__path="texts", documents__max_new_tokens=300, documents__rephrased_share=0)
    assert Plan(tiny(), read, "cpu").costs.sampling(8) == plan.costs.sampling(8)


def test_a_judge_that_asks_no_model_decodes_nothing(plan: Plan) -> None:
    by_length = short(judge__kind="length", judge__mode="sampled", judge__max_new_tokens=300)
    assert Plan(tiny(), by_length, "cpu").costs.sampling(8) == plan.costs.sampling(8)


def test_tuning_is_cut_to_fit_as_training_is() -> None:
    def fit(limit: float | None = None) -> TrainingFit:
        return Plan(tiny(), short(tuning__batch_size=8), "cpu", limit_gb=limit).fit_tuning([(40, 12)] * 20)

    whole = fit()
    assert (whole.micro_batch, whole.gradient_checkpointing) == (8, False)
    smaller = fit((whole.total - 1) / GIB)
    assert smaller.micro_batch < 8 and smaller.total < whole.total
    with pytest.raises(ConfigError, match="training needs"):
        fit(0.01)


def test_examples_of_many_lengths_are_cut_by_their_tokens() -> None:
    """However many a step has, and however short most of them are: a pass has 1,536 tokens, or one example."""
    plan = Plan(tiny(), short(tuning__batch_size=8), "cpu")
    fit = plan.fit_tuning([(700, 99)] * 8)
    assert fit.micro_batch == 8
    filled = plan.costs.training([(700, 99, 1), (734, 1, 1)], checkpointing=False, later=True)
    assert fit.parts == filled | {"keys seen again": plan.costs.cache_bytes(8 * 800 - 1536)}
    assert plan.fit_tuning([(700, 99)] * 8 + [(5, 4)] * 100) == fit  # the longest decide
    one = plan.costs.training([(2000, 99, 1)], checkpointing=False, later=True)
    assert plan.fit_tuning([(2000, 99), (5, 4)]).parts == one | {"keys seen again": plan.costs.cache_bytes(10)}


def test_a_prompt_s_answers_are_decoded_together_whatever_the_rows() -> None:
    costs = Plan(tiny(), short(sampling__n=64), "cpu").costs
    assert costs.sampling(1) == costs.sampling(2)


def test_a_judge_that_writes_reads_more_than_the_policy() -> None:
    sampled = short(judge__mode="sampled", judge__max_new_tokens=160, judge__samples=3)
    expected, written = (Plan(tiny(), cfg, "cpu").costs.sampling(6) for cfg in (short(), sampled))
    judged, answered = 2 * (52 + 512) + 6 * 160, 6 * (40 + 12)  # two candidates judged thrice, six held-out answers
    assert written["keys and values"] / expected["keys and values"] == judged / answered


def test_a_duel_has_two_answers() -> None:
    one, two = (Plan(tiny(), short(evaluation__max_new_tokens=n), "cpu").costs for n in (12, 24))
    assert two.scoring(1)["keys and values"] - one.scoring(1)["keys and values"] == one.cache_bytes(2 * 12)


def test_a_merged_adapter_needs_the_weights_a_second_time() -> None:
    costs = Plan(tiny(), short(train__reference="policy_0", engine__merge_adapter=True), "cpu").costs
    layers = 2 * (32 * 32 + 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64)  # queries, outputs, keys and values, feed-forward
    assert costs.sampling(8)["weights without adapter"] == 4 * layers
    assert costs.scoring(512)["weights without adapter"] == 4 * layers  # log-probabilities are taken with it merged
    assert "weights without adapter" not in Plan(tiny(), short(), "cpu").costs.sampling(8)


@pytest.mark.parametrize(
    "written",
    [
        {"documents__path": "texts", "documents__chunk_tokens": 1500, "documents__max_new_tokens": 1536},
        {"generation__kind": "self_instruct", "generation__examples": 20},
    ],
    ids=str,
)
def test_a_server_takes_what_is_written_besides_answers(written: dict[str, Any]) -> None:
    config = tiny(max_position_embeddings=9999)
    assert Plan(config, short(**written), "cpu").longest_served() > Plan(config, short(), "cpu").longest_served()


def test_no_fewer_rows_are_named_than_a_prompt_has_answers() -> None:
    cfg = short(memory__sampling_rows=64, sampling__n=8)
    plan = Plan(tiny(), cfg, "cpu")
    plan.limit_gb = sum(plan.costs.sampling(4).values()) / GIB
    with pytest.raises(ConfigError) as caught:
        _ = plan.sampling_rows
    assert not re.search(r"sampling_rows=[1-7] ", caught.value.remedy)


def test_planning_changes_no_setting() -> None:
    cfg = short(train__quantization="nf4", train__batch_size=2)
    before = copy.deepcopy(cfg)
    plan = Plan(tiny(), cfg, "cuda", limit_gb=1)
    plan.fit_training(plan.costs.longest_batch)
    with pytest.raises(ConfigError):
        Plan(tiny(), cfg, "cuda", limit_gb=0.5).check()
    assert cfg == before


def test_the_limit_is_the_device_s() -> None:
    assert Plan(tiny(), short(memory__cap_gb=10, memory__ram_gb=3), "cuda").limit_gb == 10
    assert Plan(tiny(), short(memory__cap_gb=10, memory__ram_gb=3), "cpu").limit_gb == 3
    assert Plan(tiny(), short(), "cpu").limit_gb == main_memory() / GIB
    assert Plan(tiny(), short(), "cuda", available_gb=23.5).limit_gb == 23.5  # a smaller card than the cap allows for
    assert Plan(tiny(), short(memory__cap_gb=10), "cuda", available_gb=23.5).limit_gb == 10
    preflights = [Plan(tiny(), short(memory__ram_gb=ram), d).preflight for d, ram in [("cuda", None), ("cpu", 3)]]
    assert preflights == [True, True]
    assert not Plan(tiny(), short(), "cpu").preflight


@slow
@pytest.mark.parametrize("kind", ["gpt2", "opt", "falcon", "mixtral", "deepseek_v3"])
def test_every_model_has_a_plan(kind: str) -> None:
    Plan(AutoConfig.for_model(kind, num_hidden_layers=4), default(), "cuda", limit_gb=1e6).check()


@slow
def test_what_can_not_be_traced_is_estimated_and_said_to_be() -> None:
    mixtral = Plan(AutoConfig.for_model("mixtral", num_hidden_layers=4), default(), "cuda", limit_gb=1e6)
    assert mixtral.costs.is_estimate
    assert "estimated" in str(plan_table(mixtral).title)
    plan = Plan(tiny(), default(), "cuda")
    assert not plan.costs.is_estimate
    assert "estimated" not in str(plan_table(plan).title)
