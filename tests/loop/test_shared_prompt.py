"""The fast forward against plain trl: the same losses and gradients, in float32, for every loss."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from selfreward.config import LoraConfig, MemoryConfig, TrainConfig
from selfreward.models import Models
from selfreward.records import PreferencePair
from selfreward.training.dpo import make_trainer
from selfreward.training.head import score_tokens
from selfreward.training.losses import LOSSES

LORA = LoraConfig(r=4, alpha=8)


def pair(prompt: int, chosen: int, rejected: int, seed: int) -> PreferencePair:
    generator = torch.Generator().manual_seed(seed)

    def ids(count: int) -> list[int]:
        return torch.randint(3, 500, (count,), generator=generator).tolist()

    return PreferencePair(
        prompt_id=str(seed),
        prompt="",
        prompt_ids=ids(prompt),
        chosen_index=0,
        chosen_ids=ids(chosen),
        chosen_logprobs=[],
        chosen_score=1.0,
        rejected_index=1,
        rejected_ids=ids(rejected),
        rejected_logprobs=[],
        rejected_score=0.0,
    )


PAIRS = [pair(12, 7, 9, 1), pair(30, 1, 15, 2), pair(1, 20, 3, 3), pair(5, 6, 6, 4)]


def loss_and_gradients(
    model_folder: Path, folder: Path, loss: str, attention: str, *, share: bool, checkpointing: bool = False
) -> tuple[float, dict[str, torch.Tensor], dict[str, float]]:
    models = Models(model_folder, "float32", "cpu")
    models.base.set_attn_implementation(attention)
    smoothing = 0.1 if LOSSES[loss].label_smoothing != "unused" else 0.0
    train = TrainConfig(loss=loss, lora=LORA, batch_size=4, label_smoothing=smoothing)
    memory = MemoryConfig(micro_batch=4, share_prompt=share, gradient_checkpointing=checkpointing)
    with models.trainable(None, LORA, 0) as model:
        trainer = make_trainer(model, models.chat.tokenizer, PAIRS, train, memory, 0, folder)
        generator = torch.Generator().manual_seed(1)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        model.train()
        (batch,) = trainer.get_train_dataloader()
        value = trainer.compute_loss(model, batch)
        value.backward()
        gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        metrics = {name: values[-1] for name, values in trainer._metrics["train"].items()}
    return value.item(), gradients, metrics


@pytest.mark.parametrize("attention", ["eager", pytest.param("sdpa", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "loss", [name if name in ("sigmoid", "ipo") else pytest.param(name, marks=pytest.mark.slow) for name in LOSSES]
)
def test_sharing_the_prompt_changes_neither_loss_nor_gradient_nor_metric(
    tiny_model: Path, tmp_path: Path, loss: str, attention: str
) -> None:
    expected, expected_gradients, expected_metrics = loss_and_gradients(
        tiny_model, tmp_path, loss, attention, share=False
    )
    found, gradients, metrics = loss_and_gradients(tiny_model, tmp_path, loss, attention, share=True)
    assert found == pytest.approx(expected, rel=1e-5)
    assert gradients.keys() == expected_gradients.keys()
    for name, gradient in expected_gradients.items():
        assert (gradients[name] - gradient).norm() <= 1e-5 * gradient.norm().clamp(min=1e-2), name
    assert metrics == pytest.approx(expected_metrics, rel=1e-5, abs=1e-6)  # margins are small differences of large sums


def test_it_holds_with_gradient_checkpointing(tiny_model: Path, tmp_path: Path) -> None:
    expected, expected_gradients, _ = loss_and_gradients(tiny_model, tmp_path, "sigmoid", "eager", share=False)
    found, gradients, _ = loss_and_gradients(tiny_model, tmp_path, "sigmoid", "eager", share=True, checkpointing=True)
    assert found == pytest.approx(expected, rel=1e-5)
    for name, gradient in expected_gradients.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-4, atol=1e-6)


def test_the_head_equals_plain_autograd_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("selfreward.training.head._CHUNK_BYTES", 4 * 50 * 3)  # chunks of three positions
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(10, 8, generator=generator, requires_grad=True)
    weight = torch.randn(50, 8, generator=generator)
    target = torch.randint(50, (10,), generator=generator)
    coefficients = torch.randn(10, generator=generator)
    scores = score_tokens(hidden, weight, target)
    (scores.log_probs_T * coefficients).sum().backward()
    assert hidden.grad is not None

    exact = hidden.detach().double().requires_grad_()
    logits = exact @ weight.double().T
    logprobs = logits.log_softmax(-1)
    picked = logprobs.gather(-1, target[:, None])[:, 0]
    (picked * coefficients.double()).sum().backward()
    torch.testing.assert_close(scores.log_probs_T.double(), picked.detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(hidden.grad.double(), exact.grad, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(scores.entropy_T.double(), -(logprobs.exp() * logprobs).sum(-1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(scores.mean_logits_T.double(), logits.mean(-1).detach(), rtol=1e-4, atol=1e-5)
    assert scores.is_top1_T.tolist() == (logits.argmax(-1) == target).tolist()
