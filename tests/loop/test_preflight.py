"""The preflight: the longest step is tried first, and leaves nothing behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from selfreward.config import LoraConfig
from selfreward.training.forward import fast_forward
from selfreward.training.pair_trainer import PairTrainer
from tests.training import (
    EIGHT_PAIRS,
    assert_same,
    our_trainer,
    settings,
    train_config,
    train_in_stage,
    trainable,
)


@pytest.mark.parametrize("dropout", [pytest.param(0.0, marks=pytest.mark.slow), 0.3])
def test_what_is_learned_is_the_same_with_and_without_it(tiny_model: Path, tmp_path: Path, dropout: float) -> None:
    """The curves, the adapter and the tokens counted, to the last bit; dropout draws the same random numbers."""
    train_settings = train_config("hinge", lora=LoraConfig(r=4, alpha=8, dropout=dropout))
    without, with_it = (
        train_in_stage(
            tiny_model, EIGHT_PAIRS, tmp_path / str(tried), settings(train_settings, micro_batch=2, preflight=tried)
        )
        for tried in (False, True)
    )
    assert_same(with_it, without)


def test_it_tries_the_longest_pairs_and_before_all_others(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[int] = []
    whole = PairTrainer.compute_loss

    def compute_loss(self: PairTrainer, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        tried.append(int(inputs["attention_mask"].sum()))
        return whole(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(PairTrainer, "compute_loss", compute_loss)
    train_in_stage(tiny_model, EIGHT_PAIRS, tmp_path, settings(train_config(), preflight=True))
    rows = sorted((2 * len(p.prompt_ids) + len(p.chosen_ids + p.rejected_ids) for p in EIGHT_PAIRS), reverse=True)
    assert tried[0] == sum(rows[:4])
    assert sum(tried[1:]) == sum(rows)


def test_what_runs_out_in_it_is_cut_before_the_first_step(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    whole = PairTrainer.compute_loss

    def compute_loss(self: PairTrainer, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        made.append(len(inputs["input_ids"]) // 2)
        if made[-1] > 2:
            raise torch.OutOfMemoryError("no memory")
        return whole(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(PairTrainer, "compute_loss", compute_loss)
    found = train_in_stage(tiny_model, EIGHT_PAIRS, tmp_path, settings(train_config(), preflight=True))
    assert made == [4, 2, 2, *[2] * 4]
    assert found.metrics["micro_batch"] == 2
    assert len(found.notes) == 1


def test_it_leaves_no_gradient(tiny_model: Path, tmp_path: Path) -> None:
    how = settings(train_config())
    with trainable(tiny_model, how.speed, how.train.lora) as (model, tokenizer):
        trainer = our_trainer(model, tokenizer, EIGHT_PAIRS, how, tmp_path)
        with fast_forward(model.get_base_model(), how.speed):
            trainer.preflight()
        assert all(parameter.grad is None for parameter in model.parameters())


def test_it_recomputes_where_training_does_or_it_would_take_more_memory(tiny_model: Path, tmp_path: Path) -> None:
    how = settings(train_config(), gradient_checkpointing=True)
    computed: list[int] = []
    with trainable(tiny_model, how.speed, how.train.lora) as (model, tokenizer):
        base: Any = model.get_base_model()
        trainer = our_trainer(model, tokenizer, EIGHT_PAIRS[:4], how, tmp_path)
        base.model.layers[0].mlp.register_forward_pre_hook(lambda *_: computed.append(1))
        with fast_forward(base, how.speed):
            trainer.preflight()
            in_preflight = len(computed)
            trainer.train()
    assert len(computed) - in_preflight == 2  # forward, and again in the backward pass
    assert in_preflight == 2
