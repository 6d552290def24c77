"""What any engine must hold to. What is right is said by plain forward passes of transformers, one row at a time."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import LlamaForCausalLM

from selfreward.engines.base import Completion, Decoding, Engine, SampleRequest
from selfreward.errors import ModelError
from selfreward.model.adapters import Adapter
from selfreward.model.models import Models
from tests.adapters import train
from tests.asking import PROMPTS, ignore, requests

GREEDY = Decoding(0.0, 1.0, 10)
WARM = Decoding(0.7, 0.9, 10)
CHOICES = [20, 21, 22, 2]
CLOSE = 1e-3  # nats, between two ways to compute the same in float32


def ids(made: Sequence[Sequence[Completion]]) -> list[list[list[int]]]:
    return [[completion.token_ids for completion in row] for row in made]


@pytest.fixture(scope="module")
def float64(model: Path) -> LlamaForCausalLM:
    return LlamaForCausalLM.from_pretrained(model, dtype=torch.float64, attn_implementation="eager")


def next_logprobs(model: LlamaForCausalLM, row: Sequence[int]) -> torch.Tensor:
    """The log-probabilities of the next token after each position, in float64."""
    with torch.no_grad():
        return model(input_ids=torch.tensor([list(row)])).logits[0].double().log_softmax(-1)


def given_logprobs(model: LlamaForCausalLM, prompt: Sequence[int], completion: Sequence[int]) -> list[float]:
    whole = next_logprobs(model, [*prompt, *completion])
    return [whole[len(prompt) + place - 1, token].item() for place, token in enumerate(completion)]


@pytest.fixture(scope="module")
def adapters(model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Adapter]:
    """Two adapters that change something, each under a name and in a folder of its own."""
    folder = tmp_path_factory.mktemp("adapters")
    return [train(Models(model, "float32", "cpu"), folder / name, seed) for seed, name in enumerate(("one", "two"))]


# Sampling


def test_greedy_answers_are_those_of_transformers_and_end_where_they_end(engine: Engine, model: Path) -> None:
    plain: Any = LlamaForCausalLM.from_pretrained(model, dtype=torch.float32)
    made = [row[0] for row in engine.sample(requests(engine, 1), GREEDY, None, ignore)]
    ends = set(plain.generation_config.eos_token_id)
    for request, completion in zip(requests(engine), made, strict=True):
        prompt = torch.tensor([request.prompt_ids])
        row = plain.generate(prompt, do_sample=False, max_new_tokens=GREEDY.max_new_tokens)[0].tolist()
        assert completion.token_ids == row[len(request.prompt_ids) :]
        assert completion.finished == (completion.token_ids[-1] in ends)
    assert {completion.finished for completion in made} == {True, False}


def test_the_end_token_is_the_last_of_a_finished_answer_and_in_no_other_place(engine: Engine) -> None:
    ends = engine.chat.end_ids
    made = [c for row in engine.sample(requests(engine, 8), Decoding(1.0, 1.0, 30), None, ignore) for c in row]
    assert all(completion.finished == (completion.token_ids[-1] in ends) for completion in made)
    assert not any(token in ends for completion in made for token in completion.token_ids[:-1])
    assert all(len(completion.token_ids) == 30 for completion in made if not completion.finished)
    assert any(completion.finished for completion in made)


def test_each_request_gets_an_answer_a_seed(engine: Engine) -> None:
    asked = [SampleRequest(r.prompt_ids, r.seeds[: 1 + i % 3]) for i, r in enumerate(requests(engine))]
    assert [len(row) for row in engine.sample(asked, WARM, None, ignore)] == [1, 2, 3, 1]


def test_equal_seeds_give_equal_answers_and_other_seeds_others(engine: Engine) -> None:
    prompt = engine.chat.render(PROMPTS[0])
    first, again, other = engine.sample([SampleRequest(prompt, [1, 1, 2])], WARM, None, ignore)[0]
    assert first.token_ids == again.token_ids
    assert first.token_ids != other.token_ids


def test_an_answer_depends_on_its_seed_and_not_on_what_is_asked_beside_it(engine: Engine) -> None:
    # A nucleus of few tokens: of hundreds, one that lies on the border by a rounding error would be met too often.
    asked, narrow = requests(engine, 5), Decoding(0.3, 0.9, 10)
    together = ids(engine.sample(asked, narrow, None, ignore))
    alone = [ids(engine.sample([request], narrow, None, ignore))[0] for request in reversed(asked)]
    assert together == alone[::-1]


def test_long_prompts_and_short_ones_may_be_asked_at_once(engine: Engine) -> None:
    """A server may compute a long prompt in parts, beside others."""
    asked = [SampleRequest([5 + i % 7] * (1 + 90 * i), [i, i + 1]) for i in range(20)]
    narrow = Decoding(0.3, 0.9, 4)
    together = ids(engine.sample(asked, narrow, None, ignore))
    assert together == [ids(engine.sample([request], narrow, None, ignore))[0] for request in asked]


@pytest.mark.parametrize("decoding", [GREEDY, WARM], ids=["greedy", "sampled"])
def test_log_probabilities_of_sampled_tokens_are_untempered_and_those_of_the_tokens_themselves(
    engine: Engine, float64: LlamaForCausalLM, decoding: Decoding
) -> None:
    asked = requests(engine)
    for request, row in zip(asked, engine.sample(asked, decoding, None, ignore), strict=True):
        for completion in row:
            expected = given_logprobs(float64, request.prompt_ids, completion.token_ids)
            assert completion.logprobs == pytest.approx(expected, abs=CLOSE)


def test_tokens_outside_the_nucleus_are_never_drawn_and_those_inside_are_drawn_by_their_chance(
    engine: Engine, float64: LlamaForCausalLM
) -> None:
    """Among much else, a model's own top_k, which is 1 here, plays no part."""
    prompt, draws = engine.chat.render(PROMPTS[0]), 400
    (row,) = engine.sample([SampleRequest(prompt, list(range(draws)))], Decoding(0.8, 0.5, 1), None, ignore)
    chance = (next_logprobs(float64, prompt)[-1] / 0.8).softmax(-1)
    likeliest = chance.sort(descending=True)
    size = int((likeliest.values.cumsum(0) < 0.5).sum()) + 1
    nucleus = {int(id): float(p) for id, p in zip(likeliest.indices[:size], likeliest.values[:size], strict=True)}
    drawn = [completion.token_ids[0] for completion in row]
    assert set(drawn) <= set(nucleus)
    for token, mass in nucleus.items():
        expected = draws * mass / sum(nucleus.values())
        assert drawn.count(token) == pytest.approx(expected, abs=5 * max(expected, 1) ** 0.5)


def test_the_longest_answer_counts_new_tokens_alone_however_long_the_prompt_is(engine: Engine) -> None:
    prompts = [engine.chat.render("word " * words) for words in (1, 100)]
    made = engine.sample([SampleRequest(ids, [3]) for ids in prompts], Decoding(1.0, 1.0, 5), None, ignore)
    assert all(len(row[0].token_ids) == 5 or row[0].finished for row in made)


def test_a_sequence_beyond_what_the_model_can_take_is_refused_and_not_cut(engine: Engine) -> None:
    with pytest.raises(ModelError, match="a sequence of 2049 tokens is beyond"):
        engine.sample([SampleRequest([5] * 2040, [1])], Decoding(1.0, 1.0, 9), None, ignore)


# Log-probabilities of given completions, and scores of choices


def test_log_probabilities_of_given_completions_are_those_of_plain_forward_passes(
    engine: Engine, float64: LlamaForCausalLM
) -> None:
    prompts, completions = [[5, 6, 7], [8, 9], [5, 6, 7]], [[20, 21, 22, 23], [24], [20, 25]]
    found = engine.logprobs(prompts, completions, None, ignore)
    for prompt, completion, row in zip(prompts, completions, found, strict=True):
        assert row == pytest.approx(given_logprobs(float64, prompt, completion), abs=CLOSE)


def test_log_probabilities_of_given_completions_are_those_of_sampling_them(engine: Engine) -> None:
    asked = requests(engine)
    sampled: list[tuple[list[int], Completion]] = [
        (request.prompt_ids, completion)
        for request, row in zip(asked, engine.sample(asked, WARM, None, ignore), strict=True)
        for completion in row
    ]
    given = engine.logprobs([p for p, _ in sampled], [c.token_ids for _, c in sampled], None, ignore)
    for (_, completion), row in zip(sampled, given, strict=True):
        assert row == pytest.approx(completion.logprobs, abs=CLOSE)


def test_scores_are_log_probabilities_of_the_next_token_over_the_whole_vocabulary(
    engine: Engine, float64: LlamaForCausalLM
) -> None:
    prompts = [engine.chat.render(prompt) for prompt in PROMPTS]
    for row, found in zip(prompts, engine.score(prompts, CHOICES, None, ignore), strict=True):
        assert found == pytest.approx(next_logprobs(float64, row)[-1, CHOICES].tolist(), abs=CLOSE)


# Order, adapters, progress, nothing


def test_results_come_in_the_order_of_what_was_asked(engine: Engine) -> None:
    prompts = [[5 + i] * (1 + 37 * i % 50) for i in range(30)]
    together = engine.score(prompts, CHOICES, None, ignore)
    for prompt, row in zip(prompts, together, strict=True):
        assert engine.score([prompt], CHOICES, None, ignore)[0] == pytest.approx(row, abs=CLOSE)


def test_an_adapter_changes_results_and_each_is_itself_in_whatever_order_they_are_used(
    engine: Engine, adapters: list[Adapter]
) -> None:
    prompts = [engine.chat.render(prompt) for prompt in PROMPTS]
    order = [None, adapters[0], adapters[1], None, adapters[0]]
    found = [list(chain(*engine.score(prompts, CHOICES, adapter, ignore))) for adapter in order]
    assert found[3] == pytest.approx(found[0], abs=CLOSE)
    assert found[4] == pytest.approx(found[1], abs=CLOSE)
    for one, other in [(0, 1), (0, 2), (1, 2)]:
        assert found[one] != pytest.approx(found[other], abs=0.05)


def test_an_adapter_is_what_peft_makes_of_its_files(engine: Engine, adapters: list[Adapter], model: Path) -> None:
    prompts, completions = [[5, 6, 7], [8, 9]], [[20, 21, 22, 23], [24]]
    base = LlamaForCausalLM.from_pretrained(model, dtype=torch.float32)
    plain: Any = PeftModel.from_pretrained(base, str(adapters[0].folder)).eval()
    expected = [given_logprobs(plain, p, c) for p, c in zip(prompts, completions, strict=True)]
    for row, right in zip(engine.logprobs(prompts, completions, adapters[0], ignore), expected, strict=True):
        assert row == pytest.approx(right, abs=CLOSE)


def test_an_adapter_samples_with_the_log_probabilities_that_it_gives(engine: Engine, adapters: list[Adapter]) -> None:
    asked = requests(engine, 1)
    made = [row[0] for row in engine.sample(asked, WARM, adapters[1], ignore)]
    given = engine.logprobs([r.prompt_ids for r in asked], [c.token_ids for c in made], adapters[1], ignore)
    for completion, row in zip(made, given, strict=True):
        assert row == pytest.approx(completion.logprobs, abs=CLOSE)


def test_progress_adds_up_to_the_requests_and_the_tokens_computed(engine: Engine) -> None:
    heard: list[tuple[float, int]] = []
    asked = requests(engine)
    made = engine.sample(asked, WARM, None, lambda units, tokens: heard.append((units, tokens)))
    prompts, answers = (sum(len(r.prompt_ids) for r in asked), sum(len(c.token_ids) for row in made for c in row))
    assert sum(units for units, _ in heard) == pytest.approx(len(asked))
    assert sum(tokens for _, tokens in heard) == prompts + answers


def test_nothing_asked_is_nothing_answered(engine: Engine) -> None:
    assert engine.sample([], WARM, None, ignore) == []
    assert engine.score([], CHOICES, None, ignore) == []
    assert engine.logprobs([], [], None, ignore) == []
