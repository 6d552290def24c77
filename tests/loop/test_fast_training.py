"""The shorter ways of training against trl by itself, which also runs the reference by itself: the same numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from selfreward.training.dpo import DPOSettings
from selfreward.training.losses import LOSSES
from tests.training import EIGHT_PAIRS, PAIRS, SPEEDS, Trained, settings, train, train_config, train_plainly

UNCLIPPED: dict[str, Any] = {
    "max_grad_norm": 1e9
}  # so that a wrong size shows in the gradients, and not in their norm alone
OF_PAIRS = ("rewards/", "logps/")  # metrics that are means over pairs; the others are over a micro-batch's tokens

Plain = Callable[..., Trained]


@pytest.fixture(scope="module")
def plain(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Plain:
    """What trl by itself comes to on `PAIRS`, worked out once for all that is held against it."""

    @cache
    def trained(loss: str = "sigmoid", attention: str = "eager") -> Trained:
        how = settings(train_config(loss, **UNCLIPPED))
        return train_plainly(tiny_model, PAIRS, how, tmp_path_factory.mktemp("plain"), attention)

    return trained


def assert_same_step(found: Trained, expected: Trained) -> None:
    """The losses and the gradients of the first steps are equal."""
    assert found.steps[0]["loss"] == pytest.approx(expected.steps[0]["loss"], rel=5e-6)
    gradients, expected_gradients = found.gradients[0], expected.gradients[0]
    assert gradients.keys() == expected_gradients.keys()
    for name, gradient in expected_gradients.items():
        assert (gradients[name] - gradient).norm() <= 5e-6 * gradient.norm().clamp(min=1e-2), name


def metrics(trained: Trained, *prefixes: str) -> Mapping[str, float]:
    return {name: value for name, value in trained.steps[0].items() if name.startswith(prefixes or "")}


def same(expected: Any) -> Any:
    return pytest.approx(expected, rel=5e-6, abs=1e-6)  # margins, and a hinge's loss, are small differences


QUICK = {("sigmoid", "all", "eager"), ("sigmoid", "all", "sdpa"), ("sigmoid", "fused_adapter", "eager")}
UNLIKE = ["sigmoid", "ipo", "aot", "sigmoid_sft"]  # of pairs, of means over tokens, of a batch, and of the answers too
WAYS = [(loss, speed, attention) for loss in UNLIKE for speed in SPEEDS for attention in ("eager", "sdpa")]
CASES = dict.fromkeys(
    [*WAYS, *((loss, "all", "eager") for loss in LOSSES)]
)  # a loss sees no more than log-probabilities


@pytest.mark.parametrize(
    ("loss", "speed", "attention"),
    [pytest.param(*case, marks=() if case in QUICK else pytest.mark.slow) for case in CASES],
)
def test_a_shorter_way_changes_neither_loss_nor_gradient_nor_metric(
    tiny_model: Path, tmp_path: Path, plain: Plain, loss: str, speed: str, attention: str
) -> None:
    how = settings(train_config(loss, **UNCLIPPED), speed=SPEEDS[speed])
    found, expected = train(tiny_model, PAIRS, how, tmp_path, attention), plain(loss, attention)
    assert_same_step(found, expected)
    assert metrics(found) == same(metrics(expected))


@pytest.mark.parametrize("attention", ["eager", pytest.param("sdpa", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "speed", [name if name == "all" else pytest.param(name, marks=pytest.mark.slow) for name in SPEEDS]
)
def test_it_holds_with_gradient_checkpointing(
    tiny_model: Path, tmp_path: Path, plain: Plain, speed: str, attention: str
) -> None:
    how = settings(train_config(**UNCLIPPED), speed=SPEEDS[speed], gradient_checkpointing=True)
    found, expected = train(tiny_model, PAIRS, how, tmp_path, attention), plain("sigmoid", attention)
    assert_same_step(found, expected)
    assert metrics(found) == same(metrics(expected))


SPLIT = [loss for loss in LOSSES if not LOSSES[loss].couples_pairs]


@pytest.mark.parametrize(
    ("loss", "micro_batch"),
    [
        ("ipo", 1),
        ("ipo", 2),
        ("ipo", 3),
        *(pytest.param(loss, 3, marks=pytest.mark.slow) for loss in SPLIT if loss != "ipo"),
    ],
)
def test_the_micro_batch_changes_neither_loss_nor_gradient_nor_what_is_logged_of_pairs(
    tiny_model: Path, tmp_path: Path, plain: Plain, loss: str, micro_batch: int
) -> None:
    """Three of four pairs leave one over: a mean of the micro-batches' means would give it the weight of three."""
    how = settings(train_config(loss, **UNCLIPPED), micro_batch=micro_batch)
    found, expected = train(tiny_model, PAIRS, how, tmp_path), plain(loss)
    assert_same_step(found, expected)
    assert metrics(found, *OF_PAIRS) == same(metrics(expected, *OF_PAIRS))


@pytest.mark.slow
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("speed", SPEEDS)
def test_the_ways_go_together(
    tiny_model: Path, tmp_path: Path, plain: Plain, speed: str, checkpointing: bool, attention: str
) -> None:
    train_settings = train_config(**UNCLIPPED)
    how = settings(train_settings, speed=SPEEDS[speed], micro_batch=3, gradient_checkpointing=checkpointing)
    assert_same_step(train(tiny_model, PAIRS, how, tmp_path, attention), plain("sigmoid", attention))


def whole(loss: str) -> DPOSettings:
    """Six steps, the last of each epoch on fewer pairs, cut into micro-batches of two and one.

    The steps are small, for Adam makes whole steps of gradients that are nothing but rounding.
    """
    micro_batch = 3 if LOSSES[loss].couples_pairs else 2
    return settings(train_config(loss, batch_size=3, epochs=2, learning_rate=2e-4), micro_batch=micro_batch)


@pytest.mark.parametrize(
    "loss", [loss if loss == "sigmoid" else pytest.param(loss, marks=pytest.mark.slow) for loss in UNLIKE]
)
def test_every_step_of_a_whole_training_is_trls(tiny_model: Path, tmp_path: Path, loss: str) -> None:
    expected = train_plainly(tiny_model, EIGHT_PAIRS, whole(loss), tmp_path)
    found = train(tiny_model, EIGHT_PAIRS, whole(loss), tmp_path)
    assert len(found.steps) == 6
    for step, expected_step in zip(found.steps, expected.steps, strict=True):
        for name in ("loss", "learning_rate", "num_tokens"):
            assert step[name] == same(expected_step[name]), name
