"""Packed texts: in one row without padding, what each sequence would get in a row of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import accumulate, pairwise
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
from selfreward.model.models import Models
from selfreward.training.forward import can_pack, fast_forward, packed_states
from selfreward.training.packing import PACKED_ATTENTION, pack, pack_texts
from tests.training import PAIRS
from tests.unit.real_steps import LATENT

Lengths = list[tuple[int, int, int]]

tokens = st.integers(1, 12)
lengths_of_pairs = st.lists(st.tuples(tokens, tokens, tokens), min_size=1, max_size=5)


# Where things are


def test_a_packing_by_hand() -> None:
    """A prompt of two, a chosen of two, a rejected of three; then a pair of one token each."""
    packing = pack([(2, 2, 3), (1, 1, 1)])
    assert packing.sizes == [2, 2, 3, 1, 1, 1]
    assert packing.runs == [(4, [0, 1]), (3, [0, 2]), (2, [3, 4]), (1, [3, 5])]  # the prompt attends with the chosen
    assert packing.positions.tolist() == [0, 1, 2, 3, 2, 3, 4, 0, 1, 1]
    chosen, rejected = [1, 2, 7], [1, 4, 5, 7]  # the last of the prompt predicts the first of both
    assert packing.sources.tolist() == chosen + rejected


def bounds(lengths: Lengths) -> list[tuple[int, int, int, int]]:
    """Of each pair where its prompt, chosen and rejected begin in the row, and where it ends."""
    starts = accumulate(map(sum, lengths), initial=0)
    return [(s, s + p, s + p + c, s + p + c + r) for s, (p, c, r) in zip(starts, lengths, strict=False)]


@given(lengths_of_pairs)
def test_a_row_is_as_long_as_its_parts_and_each_place_knows_its_position(lengths: Lengths) -> None:
    packing = pack(lengths)
    assert sum(packing.sizes) == len(packing.positions) == sum(sum(pair) for pair in lengths)
    for (start, _, chosen_end, end), (prompt, chosen, rejected) in zip(bounds(lengths), lengths, strict=True):
        assert packing.positions[start:chosen_end].tolist() == [*range(prompt + chosen)]
        assert packing.positions[chosen_end:end].tolist() == [*range(prompt, prompt + rejected)]


@given(lengths_of_pairs)
def test_each_completion_token_is_predicted_by_the_place_before_it_in_its_own_sequence(lengths: Lengths) -> None:
    expected: list[int] = []
    for kind in (1, 2):  # all chosen, then all rejected
        for places in bounds(lengths):
            sequence = [*range(places[0], places[1]), *range(places[kind], places[kind + 1])]
            expected += sequence[places[1] - places[0] - 1 : -1]
    assert pack(lengths).sources.tolist() == expected


RUBRIC = [*range(10, 20)]


def test_texts_that_begin_alike_by_hand() -> None:
    """A rubric of ten tokens under two texts, of whose tokens the last one and the last two are completions."""
    packing, ids = pack_texts([[*RUBRIC, 30, 31], [40, 41, 42], [*RUBRIC, 32, 33, 34]], [1, 1, 2])
    where = {
        tuple(ids[start:end].tolist()): i
        for i, (start, end) in enumerate(pairwise(accumulate(packing.sizes, initial=0)))
    }
    rubric, first, second, third = (where[piece] for piece in (tuple(RUBRIC), (30, 31), (40, 41, 42), (32, 33, 34)))
    assert sorted(packing.sizes) == [2, 3, 3, 10]
    assert {tuple(seen) for _, seen in packing.runs} == {(rubric,), (rubric, first), (second,), (rubric, third)}
    assert ids[packing.sources].tolist() == [30, 41, 32, 33]
    assert packing.positions[packing.sources].tolist() == [10, 1, 10, 11]


@given(
    st.lists(st.tuples(st.booleans(), st.lists(st.integers(3, 5), min_size=2, max_size=12)), min_size=1, max_size=6),
    st.data(),
)
def test_of_any_texts_each_completion_token_is_predicted_by_the_one_before_it(
    written: list[tuple[bool, list[int]]], data: st.DataObject
) -> None:
    texts = [[*RUBRIC, *rest] if judged else rest for judged, rest in written]
    completions = [data.draw(st.integers(1, len(text) - 1)) for text in texts]
    packing, ids = pack_texts(texts, completions)
    ends = [(text, completion) for text, completion in zip(texts, completions, strict=True)]
    assert ids[packing.sources].tolist() == [token for text, c in ends for token in text[-c - 1 : -1]]
    expected = [position for text, c in ends for position in range(len(text) - c - 1, len(text) - 1)]
    assert packing.positions[packing.sources].tolist() == expected
    assert sum(packing.sizes) == len(ids) <= sum(map(len, texts))


# What a model makes of it


@contextmanager
def packed(model: Any) -> Iterator[None]:
    """Have the model attend to packed texts."""
    attention = model.config._attn_implementation
    model.set_attn_implementation(PACKED_ATTENTION[attention])
    try:
        yield
    finally:
        model.set_attn_implementation(attention)


def states_of_separate_rows(model: Any, rows: list[Tensor], completions: list[int]) -> Tensor:
    """The states that predict completions, each sequence in a row of its own."""
    hidden = [model.base_model(input_ids=row[None], use_cache=False).last_hidden_state[0] for row in rows]
    return torch.cat([states[-completion - 1 : -1] for states, completion in zip(hidden, completions, strict=True)])


@torch.no_grad()
def assert_packing_changes_nothing(model: Any, lengths: Lengths, seed: int) -> None:
    ids = torch.randint(3, 90, (sum(map(sum, lengths)),), generator=torch.Generator().manual_seed(seed))
    rows = [torch.cat([ids[b[0] : b[1]], ids[b[kind] : b[kind + 1]]]) for kind in (1, 2) for b in bounds(lengths)]
    expected = states_of_separate_rows(model, rows, [pair[kind] for kind in (1, 2) for pair in lengths])
    with packed(model):
        found = packed_states(model, pack(lengths), ids)
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


@torch.no_grad()
def test_texts_that_share_a_rubric_and_a_request_get_the_states_of_separate_rows(model: Any) -> None:
    request = [*RUBRIC, *range(50, 60)]
    texts = [[*request, 30, 31, 32], [40, 41, 42], [*RUBRIC, 33, 34], [*request, 35], [*request, 35]]
    completions = [2, 1, 1, 1, 1]
    packing, ids = pack_texts(texts, completions)
    assert len(ids) == 10 + 10 + 3 + 3 + 2 + 1 + 1
    expected = states_of_separate_rows(model, [torch.tensor(text) for text in texts], completions)
    with packed(model):
        torch.testing.assert_close(packed_states(model, packing, ids), expected, rtol=1e-4, atol=1e-5)


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
