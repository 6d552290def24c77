"""Loss presets: each is one that trl computes, and none takes a label smoothing that it would ignore."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from selfreward.config import LoraConfig, MemoryConfig, TrainConfig
from selfreward.errors import ConfigError
from selfreward.models import Models
from selfreward.records import PreferencePair
from selfreward.training.dpo import make_trainer
from selfreward.training.losses import LOSSES, STARTS_AT_LN_2, check_loss

PAIRS = [
    PreferencePair("a", "Prompt?", [5, 6, 7], 0, [20, 21, 2], [], 4.0, 1, [30, 31, 32, 2], [], 1.0),
    PreferencePair("b", "Other?", [8, 9], 1, [22, 2], [], 3.0, 0, [33, 34, 2], [], 2.0),
]


def smoothing(loss: str) -> float:
    return {"required": 1e-3, "optional": 0.1}.get(LOSSES[loss].label_smoothing, 0.0)


@pytest.mark.parametrize("loss", LOSSES)
def test_every_preset_is_a_loss_that_trl_computes(loss: str, tiny_model: Path, tmp_path: Path) -> None:
    train = TrainConfig(loss=loss, label_smoothing=smoothing(loss), batch_size=2, lora=LoraConfig(r=2, alpha=4))
    check_loss(train)
    models = Models(tiny_model, "tiny", "float32", "cpu")
    with models.trainable(None, train.lora, seed=0) as model:
        trainer = make_trainer(model, models.chat.tokenizer, PAIRS, train, MemoryConfig(), 0, tmp_path)
        value = trainer.compute_loss(model, next(iter(trainer.get_train_dataloader()))).item()
    assert math.isfinite(value)
    # A fresh adapter is its own reference, so the implicit rewards of both sides are zero.
    assert loss not in STARTS_AT_LN_2 or value == pytest.approx(math.log(2), abs=1e-5)


def test_every_preset_has_a_weight_for_each_of_its_terms() -> None:
    assert all(len(loss.terms) == len(loss.weights) for loss in LOSSES.values())


def test_losses_said_to_start_at_ln_2_exist() -> None:
    assert LOSSES.keys() >= STARTS_AT_LN_2


@pytest.mark.parametrize("loss", [name for name, loss in LOSSES.items() if loss.label_smoothing == "unused"])
def test_a_label_smoothing_that_a_loss_would_ignore_is_refused(loss: str) -> None:
    check_loss(TrainConfig(loss=loss))
    with pytest.raises(ConfigError, match=f"train.label_smoothing=0.1: train.loss={loss} ignores it; use 0"):
        check_loss(TrainConfig(loss=loss, label_smoothing=0.1))


def test_a_loss_that_needs_a_label_smoothing_is_refused_without_one() -> None:
    check_loss(TrainConfig(loss="exo_pair", label_smoothing=1e-3))
    with pytest.raises(ConfigError, match=r"train\.label_smoothing=0: train.loss=exo_pair needs one above 0; use 1e-3"):
        check_loss(TrainConfig(loss="exo_pair"))


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_a_loss_that_may_have_a_label_smoothing_takes_either(label_smoothing: float) -> None:
    check_loss(TrainConfig(loss="robust", label_smoothing=label_smoothing))
