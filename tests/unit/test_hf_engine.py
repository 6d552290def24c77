"""The default engine: what it samples and scores is what a plain forward pass of transformers says."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

from selfreward.engines.base import Completion, Decoding, SampleRequest
from selfreward.engines.hf import HFEngine
from selfreward.errors import ModelError
from selfreward.model.models import Models

PROMPTS = ["Name a colour.", "Why is the sky blue? Answer in one sentence.", "Hi", "List three rivers, one a line."]


def ignore(units: float, tokens: int) -> None:
    """Progress that nobody watches."""


def requests(engine: HFEngine, answers: int = 3) -> list[SampleRequest]:
    rendered = [engine.chat.render(prompt) for prompt in PROMPTS]
    return [SampleRequest(ids, [100 * i + k for k in range(answers)]) for i, ids in enumerate(rendered)]


def plain_logprobs(model: LlamaForCausalLM, ids: Sequence[int]) -> torch.Tensor:
    """The log-probabilities of the next token after each position, in float64, by one forward pass of one row."""
    with torch.no_grad():
        return model(input_ids=torch.tensor([list(ids)])).logits[0].double().log_softmax(-1)


@pytest.fixture(scope="module")
def float64(tiny_model: Path) -> LlamaForCausalLM:
    return LlamaForCausalLM.from_pretrained(tiny_model, dtype=torch.float64, attn_implementation="eager")


# Sampling

GREEDY = Decoding(0.0, 1.0, 10)
WARM = Decoding(0.9, 0.95, 10)


@pytest.fixture(scope="module")
def ending(tiny_model: Path, engine: HFEngine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with a token that its greedy answers reach as a further end of answers."""
    folder = shutil.copytree(tiny_model, tmp_path_factory.mktemp("ending") / "model")
    answers = [made[0].token_ids for made in engine.sample(requests(engine, 1), GREEDY, None, ignore)]
    settings = json.loads((folder / "generation_config.json").read_text())
    settings["eos_token_id"] = [settings["eos_token_id"], answers[0][4]]
    (folder / "generation_config.json").write_text(json.dumps(settings))
    return folder


def test_greedy_answers_are_those_of_transformers_generate_also_where_only_some_end(ending: Path) -> None:
    engine = HFEngine(Models(ending, "float32", "cpu"), rows=64, scoring_tokens=2048, merge_adapter=False)
    made = [answers[0] for answers in engine.sample(requests(engine, 1), GREEDY, None, ignore)]
    tokenizer = engine.chat.tokenizer
    model: Any = LlamaForCausalLM.from_pretrained(ending, dtype=torch.float32)
    tokenizer.padding_side = "left"
    padded = tokenizer.pad({"input_ids": [r.prompt_ids for r in requests(engine)]}, return_tensors="pt")
    generated = model.generate(**padded, do_sample=False, max_new_tokens=GREEDY.max_new_tokens)
    ends = set(model.generation_config.eos_token_id)
    for completion, row in zip(made, generated[:, padded["input_ids"].shape[1] :].tolist(), strict=True):
        last = next((place for place, token in enumerate(row) if token in ends), len(row) - 1)
        assert completion.token_ids == row[: last + 1]
        assert completion.finished == (row[last] in ends)
    assert {completion.finished for completion in made} == {True, False}


def test_an_answer_depends_on_its_seed_alone_and_not_on_what_else_is_in_the_batch(ending: Path) -> None:
    models = Models(ending, "float32", "cpu")
    wide, narrow = (HFEngine(models, rows, scoring_tokens=2048, merge_adapter=False) for rows in (64, 2))
    asked = requests(wide, answers=5)
    # A nucleus of few tokens: of hundreds, one that lies on the border by a rounding error would be met too often.
    decoding = Decoding(0.3, 0.9, 10)
    together = wide.sample(asked, decoding, None, ignore)
    apart = narrow.sample(asked[::-1], decoding, None, ignore)[::-1]
    assert [[c.token_ids for c in row] for row in together] == [[c.token_ids for c in row] for row in apart]
    assert {c.finished for row in together for c in row} == {True, False}


def test_a_request_with_another_number_of_answers_gets_that_number(engine: HFEngine) -> None:
    asked = [SampleRequest(r.prompt_ids, r.seeds[: 1 + i % 2]) for i, r in enumerate(requests(engine))]
    made = engine.sample(asked, WARM, None, ignore)
    whole = engine.sample(requests(engine), WARM, None, ignore)
    assert [len(row) for row in made] == [1, 2, 1, 2]
    for few, row in zip(made, whole, strict=True):
        assert [c.token_ids for c in few] == [c.token_ids for c in row[: len(few)]]


def test_other_seeds_give_other_answers_and_equal_seeds_equal_ones(engine: HFEngine) -> None:
    prompt = engine.chat.render(PROMPTS[0])
    first, again, other = engine.sample([SampleRequest(prompt, [1, 1, 2])], WARM, None, ignore)[0]
    assert first == again
    assert first.token_ids != other.token_ids


@pytest.mark.parametrize("decoding", [GREEDY, WARM], ids=["greedy", "sampled"])
def test_log_probabilities_of_sampled_tokens_are_untempered_and_those_of_the_tokens_themselves(
    engine: HFEngine, float64: LlamaForCausalLM, decoding: Decoding
) -> None:
    asked = requests(engine)
    for request, row in zip(asked, engine.sample(asked, decoding, None, ignore), strict=True):
        for completion in row:
            whole = plain_logprobs(float64, request.prompt_ids + completion.token_ids)
            # The distribution after position p is that of the token at p + 1.
            before = range(len(request.prompt_ids) - 1, len(request.prompt_ids) + len(completion.token_ids) - 1)
            expected = [whole[p, token].item() for p, token in zip(before, completion.token_ids, strict=True)]
            assert completion.logprobs == pytest.approx(expected, abs=1e-4)


def test_the_longest_answer_counts_new_tokens_alone_however_long_the_prompt_is(engine: HFEngine) -> None:
    prompts = [engine.chat.render("word " * words) for words in (1, 100)]
    made = engine.sample([SampleRequest(ids, [1]) for ids in prompts], Decoding(1.0, 1.0, 5), None, ignore)
    assert [len(row[0].token_ids) for row in made] == [5, 5]
    assert not any(row[0].finished for row in made)


def test_a_sequence_beyond_what_the_model_can_take_is_refused(engine: HFEngine) -> None:
    prompt = [5] * 2040
    with pytest.raises(ModelError, match="a sequence of 2049 tokens is beyond the model's 2048"):
        engine.sample([SampleRequest(prompt, [1])], Decoding(1.0, 1.0, 9), None, ignore)
    with pytest.raises(ModelError, match="2049"):
        engine.score([[5] * 2049], [1], None, ignore)


def test_progress_adds_up_to_the_requests_and_the_tokens_computed(engine: HFEngine) -> None:
    heard: list[tuple[float, int]] = []
    asked = requests(engine)
    made = engine.sample(asked, WARM, None, lambda units, tokens: heard.append((units, tokens)))
    prompts, answers = (sum(len(r.prompt_ids) for r in asked), sum(len(c.token_ids) for row in made for c in row))
    assert sum(units for units, _ in heard) == pytest.approx(len(asked))
    assert sum(tokens for _, tokens in heard) == prompts + answers


# Log-probabilities of given completions, and scores of choices


def test_log_probabilities_of_given_completions_are_those_of_sampling_them(engine: HFEngine) -> None:
    asked = requests(engine)
    sampled: list[tuple[list[int], Completion]] = [
        (request.prompt_ids, completion)
        for request, row in zip(asked, engine.sample(asked, WARM, None, ignore), strict=True)
        for completion in row
    ]
    given = engine.logprobs([p for p, _ in sampled], [c.token_ids for _, c in sampled], None, ignore)
    for (_, completion), logprobs in zip(sampled, given, strict=True):
        assert logprobs == pytest.approx(completion.logprobs, abs=1e-4)


def test_log_probabilities_of_given_completions_are_shifted_by_one_token(
    engine: HFEngine, float64: LlamaForCausalLM
) -> None:
    prompts, completions = [[5, 6, 7], [8, 9]], [[20, 21, 22, 23], [24]]
    for prompt, completion, found in zip(
        prompts, completions, engine.logprobs(prompts, completions, None, ignore), strict=True
    ):
        expected: list[float] = []
        for place, token in enumerate(completion):  # one forward pass a token: nothing here to be shifted wrongly
            expected.append(plain_logprobs(float64, prompt + completion[:place])[-1, token].item())
        assert found == pytest.approx(expected, abs=1e-4)


CHOICES = [20, 21, 22]


def test_scores_are_log_probabilities_of_the_next_token_over_the_whole_vocabulary(
    engine: HFEngine, float64: LlamaForCausalLM
) -> None:
    prompts = [engine.chat.render(prompt) for prompt in PROMPTS]
    for ids, found in zip(prompts, engine.score(prompts, CHOICES, None, ignore), strict=True):
        assert found == pytest.approx(plain_logprobs(float64, ids)[-1, CHOICES].tolist(), abs=1e-4)


@pytest.mark.parametrize(
    "prompts",
    [
        [[5, 6, 7, 8], [5, 6, 9], [5, 6, 7, 8, 10, 11]],
        [[5, 6], [5, 6, 7]],
        [[5, 6, 7], [5, 6, 7]],
        [[5], [6, 7]],
        [[5], [5]],
    ],
    ids=["a common beginning", "one begins the other", "equal", "nothing in common", "one token"],
)
def test_what_prompts_begin_with_in_common_is_computed_once_and_changes_no_score(
    engine: HFEngine, prompts: list[list[int]]
) -> None:
    together = engine.score(prompts, CHOICES, None, ignore)
    alone = [engine.score([ids], CHOICES, None, ignore)[0] for ids in prompts]
    for row, expected in zip(together, alone, strict=True):
        assert row == pytest.approx(expected, abs=1e-5)


def test_scores_come_in_the_order_of_their_prompts_however_they_are_cut_into_batches(
    models: Models, engine: HFEngine
) -> None:
    prompts = [engine.chat.render(prompt) for prompt in PROMPTS]
    small = HFEngine(models, rows=64, scoring_tokens=20, merge_adapter=False)
    for row, expected in zip(
        small.score(prompts, CHOICES, None, ignore), engine.score(prompts, CHOICES, None, ignore), strict=True
    ):
        assert row == pytest.approx(expected, abs=1e-5)


def test_nothing_asked_is_nothing_answered(engine: HFEngine) -> None:
    assert engine.sample([], WARM, None, ignore) == []
    assert engine.score([], CHOICES, None, ignore) == []
    assert engine.logprobs([], [], None, ignore) == []
