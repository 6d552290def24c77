"""The two ways through a model give the same states: shared and without padding, or padded with transformers' cache."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM, MistralConfig, MistralForCausalLM

from selfreward.engines.base import Decoding, SampleRequest
from selfreward.engines.hf import HFEngine
from selfreward.engines.local.forward import Forward
from selfreward.engines.local.padded_forward import PaddedForward
from selfreward.engines.local.shared_forward import SharedForward
from selfreward.model.attention import KERNELS, Ends, is_exchangeable
from selfreward.model.models import Models
from tests.forwards import PREFIX, ROWS, last_states, nothing


def ragged_one_by_one(
    query_NAD: torch.Tensor,
    key_MKD: torch.Tensor,
    value_MKD: torch.Tensor,
    queries: Ends,
    keys: Ends,
    scaling: float,
    *,
    causal: bool = False,
    used: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """What a GPU's kernel computes at once, by its definition: text by text, in plain products."""
    outputs: list[torch.Tensor] = []
    totals: list[torch.Tensor] = []
    groups = query_NAD.shape[1] // key_MKD.shape[1]
    starts = zip(queries.ends[:-1].tolist(), keys.ends[:-1].tolist(), strict=True)
    ends = zip(queries.ends[1:].tolist(), keys.ends[1:].tolist(), strict=True)
    for text, ((first, first_key), (end, end_key)) in enumerate(zip(starts, ends, strict=True)):
        if used is not None:
            end_key = first_key + int(used[text])
        query_AND = query_NAD[first:end].transpose(0, 1)
        key_AMD, value_AMD = (
            tensor[first_key:end_key].transpose(0, 1).repeat_interleave(groups, 0) for tensor in (key_MKD, value_MKD)
        )
        scores_ANM = query_AND @ key_AMD.mT * scaling
        if causal:
            n, m = scores_ANM.shape[1:]
            scores_ANM += torch.full((n, m), float("-inf")).triu(m - n + 1)
        outputs.append((scores_ANM.softmax(-1) @ value_AMD).transpose(0, 1))
        totals.append(scores_ANM.logsumexp(-1))
    return torch.cat(outputs), torch.cat(totals, 1)


@pytest.fixture(params=[*sorted(KERNELS), "ragged"])
def model(request: pytest.FixtureRequest, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    if request.param == "ragged":
        monkeypatch.setattr("selfreward.engines.local.shared_keys.has_ragged", lambda *_: True)
        monkeypatch.setattr("selfreward.engines.local.ragged_keys.ragged", ragged_one_by_one)
        monkeypatch.setattr("selfreward.engines.local.ragged_keys._ROOM", 2)  # or it would never grow here
    kernel = "sdpa" if request.param == "ragged" else request.param
    return LlamaForCausalLM.from_pretrained(tiny_model, dtype=torch.float32, attn_implementation=kernel).eval()


@pytest.fixture
def both(model: Any) -> Iterator[tuple[Forward, Forward]]:
    with torch.inference_mode():
        yield SharedForward(model, 40, nothing), PaddedForward(model, 0, 40, nothing)


def test_last_states_are_the_same_however_they_are_computed(both: tuple[Forward, Forward]) -> None:
    shared, padded = (last_states(forward, ROWS) for forward in both)
    torch.testing.assert_close(shared, padded, atol=1e-5, rtol=1e-4)


def test_what_is_shared_is_computed_once(both: tuple[Forward, Forward]) -> None:
    for forward in both:
        last_states(forward, ROWS)
    shared, padded = (forward.computed for forward in both)
    assert padded == sum(map(len, ROWS))
    assert shared == 20 + 3 + 2 + 2 + 15 + 1 + 2


def test_the_last_feed_forward_is_computed_at_the_ends_of_texts_alone(model: Any) -> None:
    seen: list[int] = []
    first, last = (model.model.layers[i].mlp for i in (0, -1))
    for layer in (first, last):
        layer.down_proj.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape[1]))
    with torch.inference_mode():
        last_states(SharedForward(model, 40, nothing), [[*PREFIX, 7, 8, 9], [*PREFIX, 7, 10]])
    assert seen == [21, 1, 3, 2]  # what both begin with, then the rest of both: each time all tokens, then the ends
    assert "forward" not in vars(last)


def test_states_of_all_tokens_are_the_same(both: tuple[Forward, Forward]) -> None:
    found: list[dict[int, torch.Tensor]] = []
    for forward in both:
        with forward.ready():
            found.append(
                {row: state for batch, states in forward.states(ROWS) for row, state in zip(batch, states, strict=True)}
            )
    for row in range(len(ROWS)):
        torch.testing.assert_close(found[0][row], found[1][row], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("batch", [[0, 1, 2, 3, 4], [3, 4], [2]], ids=["mixed", "much in common", "one"])
def test_answers_grow_the_same_also_after_some_have_left(both: tuple[Forward, Forward], batch: list[int]) -> None:
    torch.manual_seed(0)
    tokens = torch.randint(3, 90, (6, 2 * len(batch)))
    gone = torch.tensor([row for row in range(2 * len(batch)) if row not in (0, 2, 3)] or [0])
    states: list[list[torch.Tensor]] = []
    for forward in both:
        with forward.ready():
            first, answers = forward.prompts(ROWS).open(batch, answers=2, steps=6)
            seen = [first, answers.step(tokens[0]), answers.step(tokens[1])]
            answers.keep(gone)
            seen += [answers.step(tokens[2][gone]), answers.step(tokens[3][gone])]
            answers.keep(torch.tensor([len(gone) - 1]))
            seen.append(answers.step(tokens[4][gone][-1:]))
            states.append(seen)
    for mine, other in zip(*states, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("finished", "rows", "steps", "as_it_is", "replayed"),
    [(0, 8, 90, False, False), (1, 8, 90, True, False), (2, 8, 90, True, True), (2, 8, 20, True, False)],
)
def test_answers_leave_when_they_are_many_and_replayed_ones_when_it_pays(
    tiny_model: Path, finished: int, rows: int, steps: int, as_it_is: bool, replayed: bool
) -> None:
    forward = SharedForward(LlamaForCausalLM.from_pretrained(tiny_model, attn_implementation="sdpa"), 40, nothing)
    assert not forward.cuda_graphs  # on a CPU
    assert forward.drops(finished, rows, steps) == as_it_is
    forward.cuda_graphs = True
    assert forward.drops(finished, rows, steps) == replayed


def test_the_models_own_attention_is_back_afterwards(model: Any) -> None:
    before = model.config._attn_implementation
    with torch.inference_mode(), pytest.raises(RuntimeError), SharedForward(model, 40, nothing).ready():
        raise RuntimeError
    assert model.config._attn_implementation == before


def test_a_model_with_a_sliding_window_is_sampled_the_padded_way(tiny_model: Path, tmp_path: Path) -> None:
    settings = LlamaForCausalLM.from_pretrained(tiny_model).config.to_dict()
    torch.manual_seed(0)
    model: Any = MistralForCausalLM(MistralConfig.from_dict(settings | {"model_type": "mistral", "sliding_window": 16}))
    assert not is_exchangeable(model)
    model.save_pretrained(tmp_path)
    Models(tiny_model, "float32", "cpu").chat.tokenizer.save_pretrained(tmp_path)
    engine = HFEngine(Models(tmp_path, "float32", "cpu"), rows=4, scoring_tokens=40, merge_adapter=False)
    made = engine.sample([SampleRequest(ROWS[0], [0])], Decoding(0.0, 1.0, 8), None, lambda *_: None)[0][0]
    generated = model.generate(torch.tensor([ROWS[0]]), do_sample=False, max_new_tokens=8)[0, len(ROWS[0]) :].tolist()
    assert made.token_ids == generated[: len(made.token_ids)]
