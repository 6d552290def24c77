"""Ways through a model that only a GPU takes give what the others give."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

from selfreward.engines.base import Completion, Decoding, SampleRequest
from selfreward.engines.hf import HFEngine
from selfreward.engines.local.cuda_graph import CudaGraph, can_capture
from selfreward.engines.local.forward import Forward
from selfreward.engines.local.padded_forward import PaddedForward
from selfreward.engines.local.shared_forward import SharedForward
from selfreward.model.attention import Ends, has_ragged, ragged, sdpa
from selfreward.model.models import Models
from tests.forwards import ROWS, last_states, nothing

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")]

REQUESTS = [SampleRequest(row, [3 * place, 3 * place + 1, 3 * place + 2]) for place, row in enumerate(ROWS)]
DRAWN = Decoding(1.0, 0.95, 200)


def sampled(models: Models, decoding: Decoding, **how: Any) -> list[list[Completion]]:
    engine = HFEngine(models, rows=12, scoring_tokens=40, merge_adapter=False, **how)
    return engine.sample(REQUESTS, decoding, None, lambda *_: None)


@pytest.fixture(scope="module")
def models(tiny_model: Path) -> Models:
    return Models(tiny_model, "float32", "cuda")


@pytest.mark.parametrize("decoding", [DRAWN, Decoding(0.0, 1.0, 70)], ids=["drawn", "greedy"])
def test_replayed_steps_give_the_same_answers(models: Models, decoding: Decoding) -> None:
    assert can_capture(models.base)
    plain, replayed = (sampled(models, decoding, cuda_graphs=on) for on in (False, True))
    for row, other in zip(plain, replayed, strict=True):
        for one, same in zip(row, other, strict=True):
            assert (one.token_ids, one.finished) == (same.token_ids, same.finished)
            assert one.logprobs == pytest.approx(same.logprobs, abs=1e-4)


def test_most_steps_are_replayed(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    passes: list[int] = []
    monkeypatch.setattr(SharedForward, "run", counted(SharedForward.run, passes))
    made = sampled(models, DRAWN)
    assert max(len(answer.token_ids) for row in made for answer in row) > 100
    assert len(passes) < 60


def counted(run: Any, calls: list[int]) -> Any:
    def wrapped(self: Any, *args: Any) -> Any:
        calls.append(1)
        return run(self, *args)

    return wrapped


def test_what_answers_took_is_free_once_they_are_made(models: Models) -> None:
    sampled(models, DRAWN)
    gc.collect()
    before = torch.cuda.memory_allocated()
    gc.disable()  # it must not take a collection
    try:
        sampled(models, DRAWN)
        assert torch.cuda.memory_allocated() == before
    finally:
        gc.enable()


def test_garbage_is_not_collected_while_a_step_is_captured() -> None:
    number = torch.zeros(1, device="cuda")
    seen: list[bool] = []

    def compute() -> torch.Tensor:
        seen.append(gc.isenabled())
        return number.add_(1)

    step = CudaGraph()
    assert [step(compute).item() for _ in range(3)] == [1, 2, 3]
    assert seen == [True, False] and gc.isenabled()


def test_a_step_that_memory_does_not_allow_to_capture_is_run_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    number = torch.zeros(1, device="cuda")
    calls: list[bool] = []

    def compute() -> torch.Tensor:
        calls.append(torch.cuda.is_current_stream_capturing())
        if calls[-1]:
            raise torch.OutOfMemoryError
        return number.add_(1)

    step = CudaGraph()
    assert [step(compute).item() for _ in range(4)] == [1, 2, 3, 4]
    assert calls == [False, True, True, False, False, False]


def test_a_model_whose_positions_depend_on_the_longest_is_not_captured(models: Models) -> None:
    config = models.base.config
    before = config.rope_parameters
    try:
        config.rope_parameters = {**before, "rope_type": "dynamic"}
        assert not can_capture(models.base)
    finally:
        config.rope_parameters = before


def parts(*sizes: int) -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [
        torch.randn(size, heads, 64, device="cuda", dtype=torch.bfloat16)
        for size, heads in zip(sizes, (6, 2, 2), strict=True)
    ]


def test_texts_of_unlike_length_attend_at_once_as_one_by_one() -> None:
    queries, keys = [3, 1, 40, 7], [10, 1, 40, 90]
    query_NAD, key_MKD, value_MKD = parts(sum(queries), sum(keys), sum(keys))
    assert has_ragged(key_MKD, value_MKD)
    ends, key_ends = (Ends.of(lengths, torch.device("cuda")) for lengths in (queries, keys))
    at_once, _ = ragged(query_NAD, key_MKD, value_MKD, ends, key_ends, 0.125, causal=True)
    columns = (t.transpose(0, 1).float() for t in (query_NAD, key_MKD, value_MKD))
    split = [column.split(lengths, 1) for column, lengths in zip(columns, (queries, keys, keys), strict=True)]
    apart = torch.cat([sdpa(q, k, v, 0.125) for q, k, v in zip(*split, strict=True)], 1).transpose(0, 1)
    torch.testing.assert_close(at_once.float(), apart, atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize("queries", [[1, 1, 1], [4, 0, 2], [1, 0, 1]], ids=str)
def test_softmax_totals_are_by_head_and_query(queries: list[int]) -> None:
    room, used = 8, [3, 8, 1]
    query_NAD, key_MKD, value_MKD = parts(sum(queries), 3 * room, 3 * room)
    device = torch.device("cuda")
    ends = (Ends.of(queries, device, least=2 if 0 in queries else 0), Ends.of([room] * 3, device))
    lengths = torch.tensor(used, dtype=torch.int32, device=device)
    output_NAD, total_AN = ragged(query_NAD, key_MKD, value_MKD, *ends, 0.125, used=lengths)
    text_N = [text for text, count in enumerate(queries) for _ in range(count)]
    assert total_AN.shape == (6, sum(queries))
    for place, text in enumerate(text_N):
        seen = slice(text * room, text * room + used[text])
        key_AMD, value_AMD = (t[seen].float().repeat_interleave(3, 1).transpose(0, 1) for t in (key_MKD, value_MKD))
        scores_AM = (key_AMD @ query_NAD[place].float()[:, :, None])[:, :, 0] * 0.125
        torch.testing.assert_close(total_AN[:, place], scores_AM.logsumexp(-1), atol=2e-2, rtol=2e-2)
        expected_AD = (scores_AM.softmax(-1)[:, None] @ value_AMD)[:, 0]
        torch.testing.assert_close(output_NAD[place].float(), expected_AD, atol=2e-2, rtol=2e-2)


@pytest.fixture
def both(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Forward, Forward]]:
    monkeypatch.setattr("selfreward.engines.local.ragged_keys._ROOM", 2)  # or it would not grow in so few steps
    loaded: Any = LlamaForCausalLM.from_pretrained(tiny_model, dtype=torch.bfloat16, attn_implementation="sdpa")
    model = loaded.to("cuda").eval()
    with torch.inference_mode():
        yield SharedForward(model, 40, nothing), PaddedForward(model, 0, 40, nothing)


def test_shared_texts_in_bfloat16_have_the_states_of_padded_ones(both: tuple[Forward, Forward]) -> None:
    torch.testing.assert_close(*(last_states(forward, ROWS) for forward in both), atol=8e-2, rtol=5e-2)


@pytest.mark.parametrize("batch", [[0, 1, 2, 3, 4], [3, 4], [2]], ids=["mixed", "much in common", "one"])
def test_answers_in_bfloat16_grow_as_padded_ones_also_after_some_have_left(
    both: tuple[Forward, Forward], batch: list[int]
) -> None:
    torch.manual_seed(0)
    tokens = torch.randint(3, 90, (12, 2 * len(batch)), device="cuda")
    kept = torch.tensor([row for row in range(2 * len(batch)) if row not in (0, 2, 3)] or [0], device="cuda")
    states: list[list[torch.Tensor]] = []
    for forward in both:
        with forward.ready():
            first, answers = forward.prompts(ROWS).open(batch, answers=2, steps=12)
            seen = [first, *(answers.step(tokens[step]).clone() for step in range(5))]
            answers.keep(kept)
            seen += [answers.step(tokens[step][kept]).clone() for step in range(5, 10)]
            answers.keep(torch.tensor([len(kept) - 1], device="cuda"))
            seen.append(answers.step(tokens[10][kept][-1:]).clone())
            states.append(seen)
    for mine, other in zip(*states, strict=True):
        torch.testing.assert_close(mine, other, atol=8e-2, rtol=5e-2)
