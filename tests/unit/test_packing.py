"""Packed pairs: in one row without padding, what each sequence would get in a row of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from trl.trainer.dpo_trainer import DataCollatorForPreference

from selfreward.config import SpeedConfig
from selfreward.models import Models
from selfreward.training.forward import can_pack, fast_forward, packed_states
from selfreward.training.packing import PACKED_ATTENTION, Packing, pack
from tests.training import PAIRS

Lengths = list[tuple[int, int, int]]

tokens = st.integers(1, 12)
lengths_of_pairs = st.lists(st.tuples(tokens, tokens, tokens), min_size=1, max_size=5)


# Where things are


def test_a_packing_by_hand() -> None:
    """A prompt of two, a chosen of two, a rejected of three; then a pair of one token each."""
    packing = pack([(2, 2, 3), (1, 1, 1)])
    assert packing.bounds == [(0, 2, 4, 7), (7, 8, 9, 10)]
    assert packing.positions.tolist() == [0, 1, 2, 3, 2, 3, 4, 0, 1, 1]
    chosen, rejected = [1, 2, 7], [1, 4, 5, 7]  # the last of the prompt predicts the first of both
    assert packing.sources.tolist() == chosen + rejected


@given(lengths_of_pairs)
def test_a_row_is_as_long_as_its_parts_and_each_place_knows_its_position(lengths: Lengths) -> None:
    packing = pack(lengths)
    assert packing.bounds[-1][-1] == len(packing.positions) == sum(sum(pair) for pair in lengths)
    for (start, prompt_end, chosen_end, end), (prompt, chosen, rejected) in zip(packing.bounds, lengths, strict=True):
        assert (prompt_end - start, chosen_end - prompt_end, end - chosen_end) == (prompt, chosen, rejected)
        assert packing.positions[start:chosen_end].tolist() == [*range(prompt + chosen)]
        assert packing.positions[chosen_end:end].tolist() == [*range(prompt, prompt + rejected)]


@given(lengths_of_pairs)
def test_each_completion_token_is_predicted_by_the_place_before_it_in_its_own_sequence(lengths: Lengths) -> None:
    packing = pack(lengths)
    expected: list[int] = []
    for kind in (1, 2):  # all chosen, then all rejected
        for bounds in packing.bounds:
            sequence = [*range(bounds[0], bounds[1]), *range(bounds[kind], bounds[kind + 1])]
            expected += sequence[bounds[1] - bounds[0] - 1 : -1]
    assert packing.sources.tolist() == expected


# What a model makes of it


@contextmanager
def packed(model: Any) -> Iterator[None]:
    """Have the model attend to packed pairs."""
    attention = model.config._attn_implementation
    model.set_attn_implementation(PACKED_ATTENTION[attention])
    try:
        yield
    finally:
        model.set_attn_implementation(attention)


def states_of_separate_rows(model: Any, packing: Packing, ids: Tensor) -> Tensor:
    """The states that predict completions, each sequence in a row of its own."""
    states: list[Tensor] = []
    for kind in (1, 2):
        for bounds in packing.bounds:
            row = torch.cat([ids[bounds[0] : bounds[1]], ids[bounds[kind] : bounds[kind + 1]]])
            hidden = model.base_model(input_ids=row[None], use_cache=False).last_hidden_state[0]
            states.append(hidden[bounds[1] - bounds[0] - 1 : -1])
    return torch.cat(states)


@torch.no_grad()
def assert_packing_changes_nothing(model: Any, lengths: Lengths, seed: int) -> None:
    packing = pack(lengths)
    ids = torch.randint(3, 90, (packing.bounds[-1][-1],), generator=torch.Generator().manual_seed(seed))
    expected = states_of_separate_rows(model, packing, ids)
    with packed(model):
        found = packed_states(model, packing, ids)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    head = model.get_output_embeddings()
    torch.testing.assert_close(head(found).log_softmax(-1), head(expected).log_softmax(-1), rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module", params=["eager", "sdpa"])
def model(request: pytest.FixtureRequest, tiny_model: Path) -> Any:
    """The tiny model in float32, once with each kind of attention."""
    model: Any = Models(tiny_model, "float32", "cpu").base
    model.set_attn_implementation(request.param)
    return model


@settings(max_examples=20)
@given(lengths=lengths_of_pairs, seed=st.integers(0, 2**31))
def test_states_and_log_probabilities_are_those_of_separate_rows(model: Any, lengths: Lengths, seed: int) -> None:
    assert_packing_changes_nothing(model, lengths, seed)


def test_the_row_that_training_computes_has_no_padding_and_each_prompt_once(model: Any) -> None:
    rows = [{"prompt_ids": p.prompt_ids, "chosen_ids": p.chosen_ids, "rejected_ids": p.rejected_ids} for p in PAIRS]
    batch = DataCollatorForPreference(pad_token_id=0)(rows)
    labels = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, -100)
    seen: list[Any] = []
    hook = model.base_model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["input_ids"]), with_kwargs=True
    )
    with hook, fast_forward(model, SpeedConfig()), torch.no_grad():
        model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=labels, fused_lm_head=True)
    expected = [id for pair in PAIRS for id in pair.prompt_ids + pair.chosen_ids + pair.rejected_ids]
    (row,) = seen
    assert row.tolist() == [expected]


# Which models


SMALL: dict[str, Any] = {
    "vocab_size": 100,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LATENT = {
    "q_lora_rank": 16,
    "kv_lora_rank": 8,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "num_key_value_heads": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "moe_intermediate_size": 16,
}


@pytest.mark.parametrize(
    ("kind", "others", "packs"),
    [
        ("Llama", {}, True),
        ("Qwen2", {}, True),
        ("Qwen3", {"head_dim": 8}, True),
        ("Phi3", {}, True),
        ("GPTNeoX", {}, True),
        ("OPT", {"ffn_dim": 64, "word_embed_proj_dim": 32}, True),
        ("Mixtral", {"num_local_experts": 4}, True),
        ("DeepseekV3", LATENT, True),
        ("Mistral", {"sliding_window": 4}, False),
        ("Gemma2", {"head_dim": 8}, False),
        ("StableLm", {}, False),
        ("Lfm2", {"layer_types": ["conv", "full_attention"] * 2}, False),
        ("MiniMax", {"num_local_experts": 2, "head_dim": 8}, False),
    ],
)
def test_pairs_are_packed_for_models_to_which_it_makes_no_difference(
    kind: str, others: dict[str, Any], packs: bool
) -> None:
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**SMALL | others)
    model: Any = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.2)
    assert can_pack(model) == packs
    if packs:
        assert_packing_changes_nothing(model, [(7, 5, 6), (3, 9, 2), (12, 1, 8)], seed=0)
