"""Loss presets: each is one that trl computes, and none takes a label smoothing that it would ignore."""

from __future__ import annotations

import math
from pathlib import Path
from statistics import fmean

import pytest
import torch

from selfreward.config import LoraConfig, MemoryConfig, TrainConfig
from selfreward.errors import ConfigError
from selfreward.model.models import Models
from selfreward.records import PreferencePair
from selfreward.training.losses import LOSSES, STARTS_AT_LN_2, check_loss
from tests.training import move, our_trainer, settings


def pair(number: int) -> PreferencePair:
    """A preference pair whose tokens and lengths are as good as random."""
    ids = [3 + (7919 * (number + 1) * (place + 1)) % 500 for place in range(20)]
    chosen, rejected = ids[5 : 9 + number % 4], ids[12 : 15 + number % 3]
    return PreferencePair(f"p{number}", "Prompt?", ids[:5], 0, [*chosen, 2], [], 4.0, 1, [*rejected, 2], [], 1.0)


PAIRS = [pair(number) for number in range(6)]


def smoothing(loss: str) -> float:
    return {"required": 1e-3, "optional": 0.1}.get(LOSSES[loss].label_smoothing, 0.0)


@pytest.mark.parametrize("loss", LOSSES)
def test_every_preset_is_a_loss_of_trl_and_says_whether_it_looks_across_pairs_and_takes_a_label_smoothing(
    loss: str, tiny_model: Path, tmp_path: Path
) -> None:
    lora = LoraConfig(r=2, alpha=4)
    train = TrainConfig(loss=loss, label_smoothing=smoothing(loss), batch_size=len(PAIRS), lora=lora)
    check_loss(train, MemoryConfig(micro_batch=len(PAIRS)))
    models = Models(tiny_model, "float32", "cpu")
    with models.trainable(None, lora, seed=0) as model:
        trainer = our_trainer(model, models.chat.tokenizer, PAIRS, settings(train), tmp_path)
        (batch,) = trainer.get_train_dataloader()

        def value(*numbers: int) -> float:
            pairs = [*numbers]
            rows = [*pairs, *(len(PAIRS) + number for number in pairs)]  # the chosen, then the rejected
            some = {name: tensor[pairs if tensor.ndim == 1 else rows] for name, tensor in batch.items()}
            with torch.no_grad():
                return trainer.compute_loss(model, some).item()

        if loss in STARTS_AT_LN_2:  # a fresh adapter is its own reference
            assert value(*range(len(PAIRS))) == pytest.approx(math.log(2), abs=1e-5)
        move(model, seed=0, size=0.5)
        whole = value(*range(len(PAIRS)))
        apart = fmean(value(number) for number in range(len(PAIRS)))
        trainer.label_smoothing = 0.3
        smoothed = value(*range(len(PAIRS)))
    assert math.isfinite(whole)
    looks_across_pairs = whole != pytest.approx(apart, abs=1e-4)
    takes_a_label_smoothing = whole != pytest.approx(smoothed, abs=1e-4)
    assert looks_across_pairs == LOSSES[loss].couples_pairs
    assert takes_a_label_smoothing == (LOSSES[loss].label_smoothing != "unused")


def test_every_preset_has_a_weight_for_each_of_its_terms() -> None:
    assert all(len(loss.terms) == len(loss.weights) for loss in LOSSES.values())


def test_losses_said_to_start_at_ln_2_exist() -> None:
    assert LOSSES.keys() >= STARTS_AT_LN_2


@pytest.mark.parametrize("loss", [name for name, loss in LOSSES.items() if loss.label_smoothing == "unused"])
def test_a_label_smoothing_that_a_loss_would_ignore_is_refused(loss: str) -> None:
    check_loss(TrainConfig(loss=loss), MemoryConfig(micro_batch=4))
    with pytest.raises(ConfigError, match=f"train.label_smoothing=0.1: train.loss={loss} ignores it; use 0"):
        check_loss(TrainConfig(loss=loss, label_smoothing=0.1), MemoryConfig(micro_batch=4))


def test_a_loss_that_needs_a_label_smoothing_is_refused_without_one() -> None:
    check_loss(TrainConfig(loss="exo_pair", label_smoothing=1e-3), MemoryConfig(micro_batch=4))
    with pytest.raises(ConfigError, match=r"train\.label_smoothing=0: train.loss=exo_pair needs one above 0; use 1e-3"):
        check_loss(TrainConfig(loss="exo_pair"), MemoryConfig(micro_batch=4))


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_a_loss_that_may_have_a_label_smoothing_takes_either(label_smoothing: float) -> None:
    check_loss(TrainConfig(loss="robust", label_smoothing=label_smoothing), MemoryConfig(micro_batch=4))


@pytest.mark.parametrize("loss", [name for name, loss in LOSSES.items() if loss.couples_pairs])
def test_a_loss_that_looks_across_pairs_is_refused_where_the_batch_is_cut_and_the_remedy_helps(loss: str) -> None:
    train = TrainConfig(loss=loss, batch_size=4)
    with pytest.raises(
        ConfigError, match=rf"memory\.micro_batch=2: train.loss={loss} compares .* use (memory.micro_batch=)?4"
    ):
        check_loss(train, MemoryConfig(micro_batch=2))
    check_loss(train, MemoryConfig(micro_batch=4))
    check_loss(train, MemoryConfig(micro_batch=None))


def test_a_label_smoothing_that_trl_would_refuse_is_refused_before_anything_is_sampled() -> None:
    with pytest.raises(ConfigError, match=r"train\.label_smoothing=0\.5: train.loss=robust"):
        check_loss(TrainConfig(loss="robust", label_smoothing=0.5), MemoryConfig(micro_batch=4))
