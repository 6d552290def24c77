"""Supervised tuning through trl: the right loss, whatever is shared, padded or cut to fit."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from selfreward.config import LoraConfig, MemoryConfig, SpeedConfig, TuningConfig
from selfreward.errors import TrainingError
from selfreward.store import Metrics, Work
from selfreward.store.observer import NoMeter
from selfreward.training.examples import Example
from selfreward.training.tuning import ExampleTrainer, TuningSettings, tune
from tests.loop.helpers import Recorder
from tests.training import trainable

LORA = LoraConfig(r=4, alpha=8)
FAST = SpeedConfig()
RUBRIC = [1, *range(10, 22)]
EXAMPLES = [
    Example([*RUBRIC, 44], [80], 81, 0.25),
    Example([1, 40, 50], [60, 2]),
    Example([1, 45], [70, 71, 72, 2], weight=3.0),
    Example([*RUBRIC, 41, 42, 43], [82], 83, 0.5),
]


def tuned(
    model: Path,
    folder: Path,
    speed: SpeedConfig = FAST,
    learning_rate: float = 2e-4,
    size: int = len(EXAMPLES),
    tokens: int = 1000,
    computed: list[int] | None = None,
    attention: str = "eager",
    checkpointing: bool = False,
) -> tuple[Metrics, dict[str, torch.Tensor]]:
    """Metrics of two steps on all examples, and the adapter that came of them. `computed`: tokens of each forward pass
    are added to it."""
    tuning = TuningConfig(batch_size=len(EXAMPLES), epochs=2, warmup_ratio=0.0, learning_rate=learning_rate)
    how = TuningSettings(tuning, MemoryConfig(), speed, size, tokens, checkpointing, preflight=False)
    with trainable(model, speed, LORA, attention) as (policy, tokenizer), NoMeter().measure() as peak:
        if computed is not None:
            base: Any = policy.get_base_model()
            base.base_model.register_forward_pre_hook(
                lambda module, args, kwargs: computed.append(kwargs["input_ids"].numel()), with_kwargs=True
            )
        metrics = tune(policy, tokenizer, EXAMPLES, how, 0, Work(folder, 0, Recorder(), peak))
        weights = {n: p.detach().clone() for n, p in policy.named_parameters() if p.requires_grad}
    return metrics, weights


def plain_loss(model: Any, example: Example) -> torch.Tensor:
    """The mean cross-entropy of a completion, by the model's own logits; its last token is half another one."""
    ids = torch.tensor([example.prompt_ids + example.completion_ids])
    logprobs = model(input_ids=ids).logits[0].log_softmax(-1)
    places = range(len(example.prompt_ids) - 1, ids.shape[1] - 1)
    loss = -torch.stack([logprobs[place, ids[0, place + 1]] for place in places]).mean()
    other = -logprobs[ids.shape[1] - 2, example.other_id]
    return (1 - example.other_weight) * loss + example.other_weight * other


@pytest.mark.parametrize("speed", [SpeedConfig(), SpeedConfig(share_prompt=False)], ids=["packed", "padded"])
def test_the_loss_is_the_cross_entropy_of_completions_with_soft_scores(
    tiny_model: Path, tmp_path: Path, speed: SpeedConfig
) -> None:
    metrics, _ = tuned(tiny_model, tmp_path, speed=speed)
    with trainable(tiny_model, speed, LORA) as (model, _):
        expected = torch.stack([example.weight * plain_loss(model, example) for example in EXAMPLES]).mean()
    assert metrics["loss"][0] == pytest.approx(expected.item(), rel=1e-3)


def test_packed_or_padded_the_same_is_learned(tiny_model: Path, tmp_path: Path) -> None:
    _, packed = tuned(tiny_model, tmp_path / "packed")
    _, padded = tuned(tiny_model, tmp_path / "padded", speed=SpeedConfig(share_prompt=False))
    for name, weight in packed.items():
        assert torch.allclose(weight, padded[name], atol=1e-5), name


@pytest.mark.parametrize("speed", [SpeedConfig(), SpeedConfig(share_prompt=False)], ids=["packed", "padded"])
@pytest.mark.parametrize(("size", "tokens"), [(1, 1000), (2, 1000), (4, 20), (4, 1)])
def test_however_a_step_is_cut_the_same_is_learned(
    tiny_model: Path, tmp_path: Path, speed: SpeedConfig, size: int, tokens: int
) -> None:
    whole, expected = tuned(tiny_model, tmp_path / "whole", speed=speed)
    parts, found = tuned(tiny_model, tmp_path / "parts", speed=speed, size=size, tokens=tokens)
    assert parts["loss"] == pytest.approx(whole["loss"], rel=1e-4)
    for name, weight in expected.items():
        assert torch.allclose(weight, found[name], atol=1e-5), name


@pytest.mark.parametrize(
    ("size", "tokens", "share", "expected"),
    [
        (4, 1000, True, [13 + 2 + 4 + 5 + 6]),  # the rubric once
        (4, 20, True, [13 + 2 + 4, 5 + 6]),  # what begins alike is together
        (2, 1000, True, [13 + 2 + 4, 5 + 6]),
        (4, 1, True, [15, 17, 5, 6]),  # one example at least
        (4, 1000, False, [4 * 17]),
        (4, 34, False, [2 * 17, 2 * 6]),  # padding counts too
    ],
)
def test_a_micro_batch_has_no_more_tokens_or_examples_than_it_may(
    tiny_model: Path, tmp_path: Path, size: int, tokens: int, share: bool, expected: list[int]
) -> None:
    computed: list[int] = []
    speed = SpeedConfig(share_prompt=share)
    tuned(tiny_model, tmp_path, speed=speed, size=size, tokens=tokens, computed=computed)
    assert sorted(computed) == sorted(2 * expected)  # two steps


@pytest.mark.parametrize(("attention", "checkpointing"), [("sdpa", False), ("eager", True), ("sdpa", True)])
def test_what_is_shared_learns_from_all_that_share_it(
    tiny_model: Path, tmp_path: Path, attention: str, checkpointing: bool
) -> None:
    _, expected = tuned(tiny_model, tmp_path / "apart", speed=SpeedConfig(share_prompt=False))
    _, found = tuned(tiny_model, tmp_path / "shared", attention=attention, checkpointing=checkpointing)
    for name, weight in expected.items():
        assert torch.allclose(weight, found[name], atol=1e-5), name


def test_when_memory_runs_out_fewer_examples_are_computed_at_once(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fewer than were, which may be less than the most that are allowed."""
    whole = ExampleTrainer.compute_loss
    made: list[int] = []

    def compute_loss(self: ExampleTrainer, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        made.append(len(inputs["input_ids"]))
        if len(made) == 1:
            raise MemoryError
        return whole(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(ExampleTrainer, "compute_loss", compute_loss)
    metrics, _ = tuned(tiny_model, tmp_path, size=4, tokens=20)
    assert made == [2] + 8 * [1]
    assert metrics["micro_batch"] == 1


def test_nothing_learned_is_an_error_that_names_the_settings_of_tuning(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"left the adapter as it was: raise tuning.* set tuning.warmup_ratio=0"):
        tuned(tiny_model, tmp_path, learning_rate=1e-30)


def test_a_training_that_diverges_is_an_error(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_number(self: ExampleTrainer, model: Any, *_: Any, **__: Any) -> torch.Tensor:
        return next(p for p in model.parameters() if p.requires_grad).sum() * math.nan

    monkeypatch.setattr(ExampleTrainer, "compute_loss", no_number)
    with pytest.raises(TrainingError, match=r"training diverged, .*: lower tuning.learning_rate"):
        tuned(tiny_model, tmp_path)
