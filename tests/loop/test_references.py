"""The reference's log-probabilities: trl's own, computed once, and refused where they are another model's."""

from __future__ import annotations

import copy
import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from selfreward.config import LoraConfig, RunConfig, artifacts_dir
from selfreward.errors import TrainingError
from selfreward.model.models import Models
from selfreward.records import PreferencePair, ReferenceLogprobs
from selfreward.training.forward import fast_forward
from selfreward.training.reference import (
    PARITY_TOLERANCE,
    check_parity,
    compute_references,
    difference,
    recorded_references,
)
from tests.loop.helpers import Recorder, run_loop
from tests.training import EIGHT_PAIRS, PLAIN, SPEEDS, plain_trainer, references, settings, train_config, trainable

LORA = LoraConfig(r=4, alpha=8)
ALL = SPEEDS["all"]


# Computed


@pytest.mark.parametrize("reference", ["previous", "base"])
@pytest.mark.parametrize("attention", ["eager", pytest.param("sdpa", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "speed", [name if name == "all" else pytest.param(name, marks=pytest.mark.slow) for name in SPEEDS]
)
def test_they_are_those_of_trls_own_reference_pass(
    tiny_model: Path, tmp_path: Path, speed: str, attention: str, reference: str
) -> None:
    """trl's reference is a copy of the adapter; without the copy it is the base model, all adapters off."""
    how = settings(train_config(lora=LORA, batch_size=8))
    with trainable(tiny_model, PLAIN, LORA, attention) as (model, tokenizer):
        trainer = plain_trainer(model, tokenizer, EIGHT_PAIRS, how, tmp_path)
        if reference == "base":
            model.delete_adapter("ref")
        batch = trainer.data_collator(list(trainer.train_dataset))  # pyright: ignore[reportArgumentType, reportCallIssue]
        by_trl: Any = trainer.compute_ref_log_probs(model, batch)
        expected = [[*pair] for pair in zip(*(sums.tolist() for sums in by_trl), strict=True)]
    with trainable(tiny_model, SPEEDS[speed], LORA, attention) as (model, tokenizer):
        if reference == "base":
            with model.disable_adapter():
                found = references(model, tokenizer, EIGHT_PAIRS, SPEEDS[speed])
        else:
            found = references(model, tokenizer, EIGHT_PAIRS, SPEEDS[speed])
    assert [[sum(r.chosen), sum(r.rejected)] for r in found] == [pytest.approx(row, rel=1e-5) for row in expected]


def test_each_token_has_its_own_as_in_a_plain_pass_in_float64(tiny_model: Path) -> None:
    with trainable(tiny_model, ALL, LORA) as (model, tokenizer):
        found = references(model, tokenizer, EIGHT_PAIRS, ALL)
        model.double()
        for pair, reference in zip(EIGHT_PAIRS, found, strict=True):
            for ids, log_probs in ((pair.chosen_ids, reference.chosen), (pair.rejected_ids, reference.rejected)):
                with torch.no_grad():
                    logits = model(input_ids=torch.tensor([pair.prompt_ids + ids])).logits[0]
                plain = logits.log_softmax(-1)[len(pair.prompt_ids) - 1 : -1]
                assert log_probs == pytest.approx(plain.gather(-1, torch.tensor(ids)[:, None])[:, 0].tolist(), rel=1e-5)


@pytest.mark.parametrize("tokens", [1, 60, 10_000])
def test_they_come_in_the_order_of_the_pairs_however_they_are_cut_into_batches(tiny_model: Path, tokens: int) -> None:
    told: list[tuple[int, int]] = []
    with trainable(tiny_model, ALL, LORA) as (model, tokenizer):
        expected = [references(model, tokenizer, [pair], ALL)[0] for pair in EIGHT_PAIRS]
        found = compute_references(model, tokenizer, EIGHT_PAIRS, ALL, tokens, lambda *done: told.append(done))
    assert [r.prompt_id for r in found] == [pair.prompt_id for pair in EIGHT_PAIRS]
    assert max(difference(a, b) for a, b in zip(found, expected, strict=True)) < 1e-5
    lengths = [len(p.prompt_ids + p.chosen_ids + p.rejected_ids) for p in EIGHT_PAIRS]
    assert (sum(pairs for pairs, _ in told), sum(done for _, done in told)) == (len(EIGHT_PAIRS), sum(lengths))
    assert len(told) == {1: 8, 10_000: 1}.get(tokens, len(told))
    assert all(done <= max(tokens, *lengths) for _, done in told)


def test_a_fresh_adapter_is_no_adapter(tiny_model: Path) -> None:
    """Policy 0 is scored through a fresh adapter, by training's own forward pass."""
    models = Models(tiny_model, "float32", "cpu")
    with models.trainable(None, LoraConfig(), 0) as model:
        through_adapter = references(model, models.chat.tokenizer, EIGHT_PAIRS, ALL)
        with model.disable_adapter():
            base = references(model, models.chat.tokenizer, EIGHT_PAIRS, ALL)
    assert through_adapter == base


def test_the_model_answers_as_before_once_they_are_computed(tiny_model: Path) -> None:
    models = Models(tiny_model, "float32", "cpu")
    forward, attention = models.base.forward, models.base.config._attn_implementation
    with models.trainable(None, LORA, 0) as model:
        references(model, models.chat.tokenizer, EIGHT_PAIRS, ALL)
        assert "forward" not in vars(model.get_base_model())
    assert models.base.forward == forward
    assert models.base.config._attn_implementation == attention


# Held against training


def parity(folder: Path, nats: float, dtype: str = "float32") -> float:
    """What the check makes of references that are `nats` a token off."""
    with trainable(folder, ALL, LORA, dtype=dtype) as (model, tokenizer):
        given = references(model, tokenizer, EIGHT_PAIRS, ALL)
        off = [replace(r, chosen=[p + nats for p in r.chosen], rejected=[p + nats for p in r.rejected]) for r in given]
        with fast_forward(model.get_base_model(), ALL):
            return check_parity(model.eval(), tokenizer, EIGHT_PAIRS, off)


def test_the_right_ones_are_the_same_but_for_rounding(tiny_model: Path) -> None:
    assert parity(tiny_model, 0.0) == pytest.approx(0, abs=1e-5)
    assert parity(tiny_model, 0.0, "bfloat16") < PARITY_TOLERANCE[torch.bfloat16] / 2


@pytest.mark.parametrize(("nats", "dtype"), [(1.0, "float32"), (-1.0, "float32"), (0.01, "float32"), (1.0, "bfloat16")])
def test_wrong_ones_are_an_error_of_one_line_that_says_what_to_do(tiny_model: Path, nats: float, dtype: str) -> None:
    said = r"are (1|0\.99\d|0\.01) nats a token off .* where sampling did, use train.reference_logprobs=computed$"
    with pytest.raises(TrainingError, match=said) as caught:
        parity(tiny_model, nats, dtype)
    assert len(str(caught.value).splitlines()) == 1


def test_ones_that_are_not_numbers_are_refused(tiny_model: Path) -> None:
    with pytest.raises(TrainingError, match=r"train\.reference_logprobs=computed"):
        parity(tiny_model, float("nan"))


def test_training_refuses_those_of_another_model(tiny_config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the engine that noted them computes otherwise."""
    tiny_config.train.reference_logprobs = "recorded"

    def others(pairs: list[PreferencePair]) -> list[ReferenceLogprobs]:
        given = recorded_references(pairs)
        return [replace(r, chosen=[p + 1 for p in r.chosen], rejected=[p + 1 for p in r.rejected]) for r in given]

    monkeypatch.setattr("selfreward.training.reference.recorded_references", others)
    recorder = Recorder()
    with pytest.raises(TrainingError, match=r"train\.reference_logprobs=computed"):
        run_loop(tiny_config, recorder)
    assert recorder.computed[-1] == "pairs"


# In the loop


@pytest.mark.slow
def test_they_are_made_under_the_previous_policy(tiny_config: RunConfig) -> None:
    tiny_config.iteration = 2
    made = run_loop(tiny_config)
    for earlier, later in itertools.pairwise(made):
        assert later["references"].manifest.parents["policy"] == earlier["policy"].full_id
        assert later["policy"].manifest.parents["references"] == later["references"].full_id
        pairs = later["pairs"].read(PreferencePair)
        found = later["references"].read(ReferenceLogprobs)
        keys = [(p.prompt_id, p.chosen_index, p.rejected_index) for p in pairs]
        assert [(r.prompt_id, r.chosen_index, r.rejected_index) for r in found] == keys
        recorded = recorded_references(pairs)
        assert [r.chosen for r in recorded] == [p.chosen_logprobs for p in pairs]
        assert max(difference(a, b) for a, b in zip(found, recorded, strict=True)) < 1e-4  # the policy that sampled
        assert later["references"].metrics["recorded_difference"] < 1e-4
        assert later["policy"].metrics["reference_parity"] < 1e-5


@pytest.mark.slow
def test_with_reference_base_they_are_made_under_policy_0(tiny_config: RunConfig) -> None:
    tiny_config.iteration = 2
    tiny_config.train.reference = "policy_0"
    tiny_config.train.learning_rate = 1e-2
    made = run_loop(tiny_config)
    for iteration in made[1:]:
        assert iteration["references"].manifest.parents["policy"] == made[0]["policy"].full_id
        assert iteration["policy"].metrics["reference_parity"] < 1e-5
    assert made[2]["references"].metrics["recorded_difference"] > 1e-3  # policy 1 sampled


def test_recorded_ones_train_as_computed_ones_do_and_make_no_artifact(tiny_config: RunConfig) -> None:
    computed = run_loop(tiny_config)
    recording = copy.deepcopy(tiny_config)
    recording.train.reference_logprobs = "recorded"
    recording.output_dir = str(Path(tiny_config.output_dir).parents[1] / "recorded" / "run")
    recorder = Recorder()
    recorded = run_loop(recording, recorder)
    assert "references" not in recorded[1]
    assert "references" not in recorder.computed
    assert not (artifacts_dir(recording) / "references").exists()
    for name in ("loss", "reward_margin", "gradient_norm"):
        expected = computed[1]["policy"].metrics[name]
        assert recorded[1]["policy"].metrics[name] == pytest.approx(expected, rel=1e-4, abs=1e-4), name
    assert recorded[1]["policy"].metrics["reference_parity"] < 1e-4
