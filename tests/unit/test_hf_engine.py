"""What is the default engine's own: batches that change nothing. What all engines hold to stands in tests/contract/."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from selfreward.engines.base import Decoding, SampleRequest
from selfreward.engines.hf import HFEngine
from selfreward.errors import ModelError
from selfreward.model.models import Models
from tests.asking import PROMPTS, ignore, requests

# Sampling

GREEDY = Decoding(0.0, 1.0, 10)
WARM = Decoding(0.3, 0.9, 10)  # of few tokens: one on the border by a rounding error is seldom met


@pytest.fixture(scope="module")
def ending(tiny_model: Path, engine: HFEngine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with a token that its greedy answers reach as a further end of answers."""
    folder = shutil.copytree(tiny_model, tmp_path_factory.mktemp("ending") / "model")
    answers = [made[0].token_ids for made in engine.sample(requests(engine, 1), GREEDY, None, ignore)]
    settings = json.loads((folder / "generation_config.json").read_text())
    settings["eos_token_id"] = [settings["eos_token_id"], answers[0][4]]
    (folder / "generation_config.json").write_text(json.dumps(settings))
    return folder


def test_an_answer_depends_on_its_seed_alone_and_not_on_what_else_is_in_the_batch(ending: Path) -> None:
    models = Models(ending, "float32", "cpu")
    wide, narrow = (HFEngine(models, rows, scoring_tokens=2048, merge_adapter=False) for rows in (64, 2))
    asked = requests(wide, answers=5)
    together = wide.sample(asked, WARM, None, ignore)
    apart = narrow.sample(asked[::-1], WARM, None, ignore)[::-1]
    assert [[c.token_ids for c in row] for row in together] == [[c.token_ids for c in row] for row in apart]
    assert {c.finished for row in together for c in row} == {True, False}


def test_a_request_with_another_number_of_answers_gets_that_number(engine: HFEngine) -> None:
    asked = [SampleRequest(r.prompt_ids, r.seeds[: 1 + i % 2]) for i, r in enumerate(requests(engine))]
    made = engine.sample(asked, WARM, None, ignore)
    whole = engine.sample(requests(engine), WARM, None, ignore)
    assert [len(row) for row in made] == [1, 2, 1, 2]
    for few, row in zip(made, whole, strict=True):
        assert [c.token_ids for c in few] == [c.token_ids for c in row[: len(few)]]


def test_a_sequence_beyond_what_the_model_can_take_is_refused(engine: HFEngine) -> None:
    prompt = [5] * 2040
    with pytest.raises(ModelError, match="a sequence of 2049 tokens is beyond the model's 2048"):
        engine.sample([SampleRequest(prompt, [1])], Decoding(1.0, 1.0, 9), None, ignore)
    with pytest.raises(ModelError, match="2049"):
        engine.score([[5] * 2049], [1], None, ignore)


# Log-probabilities of given completions, and scores of choices


CHOICES = [20, 21, 22]


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
