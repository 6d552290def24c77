"""Training on pairs made by hand: ours, and trl's own to hold it against."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel, get_peft_model_state_dict
from transformers import TrainerCallback
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer

from selfreward.config import LoraConfig, MemoryConfig, SpeedConfig, TrainConfig
from selfreward.group import ALONE, Group
from selfreward.model.lora import TRAINED
from selfreward.model.models import Models
from selfreward.records import PreferencePair, ReferenceLogprobs
from selfreward.store import Metrics, Work
from selfreward.store.observer import NoMeter
from selfreward.training.dpo import DPOSettings, Start, make_trainer, train_dpo
from selfreward.training.forward import fast_forward
from selfreward.training.losses import LOSSES
from selfreward.training.pair_trainer import PairTrainer
from selfreward.training.reference import compute_references
from tests.loop.helpers import Recorder

PLAIN = SpeedConfig(completion_head=False, share_prompt=False, fused_adapter=False)
SPEEDS = {
    "completion_head": SpeedConfig(completion_head=True, share_prompt=False, fused_adapter=False),
    "share_prompt": SpeedConfig(completion_head=True, share_prompt=True, fused_adapter=False),
    "fused_adapter": SpeedConfig(completion_head=False, share_prompt=False, fused_adapter=True),
    "all": SpeedConfig(),
}
"""The shorter ways, each with what it needs and nothing else, and all at once."""


def pair(prompt: int, chosen: int, rejected: int, seed: int) -> PreferencePair:
    """A preference pair of these lengths, of random tokens."""
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
EIGHT_PAIRS = [*PAIRS, pair(8, 9, 4, 5), pair(17, 3, 11, 6), pair(2, 5, 5, 7), pair(11, 8, 8, 8)]


def train_config(loss: str = "sigmoid", **others: Any) -> TrainConfig:
    """Settings under which a few steps show; a loss has the label smoothing that it takes."""
    smoothing = 0.1 if LOSSES[loss].label_smoothing != "unused" else 0.0
    defaults = {"batch_size": 4, "learning_rate": 1e-3, "lora": LoraConfig(r=4, alpha=8)}
    return TrainConfig(loss=loss, label_smoothing=smoothing, **defaults | others)


def settings(train: TrainConfig, **others: Any) -> DPOSettings:
    """How to train: all in one micro-batch by all the shorter ways, unless said otherwise."""
    whole = DPOSettings(
        train,
        MemoryConfig(),
        SpeedConfig(),
        micro_batch=train.batch_size,
        gradient_checkpointing=False,
        preflight=False,
    )
    return replace(whole, **others)


def move(model: torch.nn.Module, seed: int, size: float = 0.1) -> None:
    """Move the trained adapter to another place, the same for each `seed`."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if f".{TRAINED}." in name:
                parameter.add_(size * torch.randn(parameter.shape, generator=generator))


@contextmanager
def trainable(
    folder: Path, speed: SpeedConfig, lora: LoraConfig, attention: str = "eager", dtype: str = "float32"
) -> Iterator[tuple[PeftModel, Any]]:
    """The model in `folder` with an adapter that already does something, and its tokenizer."""
    models = Models(folder, dtype, "cpu", fused_adapters=speed.fused_adapter)
    models.base.set_attn_implementation(attention)
    with models.trainable(None, lora, 0) as model:
        move(model, seed=0)
        yield model, models.chat.tokenizer


def references(model: PeftModel, tokenizer: Any, pairs: Sequence[PreferencePair], speed: SpeedConfig) -> list[Any]:
    """The pairs' log-probabilities under the model as it stands."""
    return compute_references(model, tokenizer, pairs, speed, 2048, lambda *_: None)


# Whole trainings

EXACT = "float64"
"""What whole trainings are compared in: a steep loss makes 1e-5 of float32's rounding, which CPUs don't share."""


class PlainTrainer(DPOTrainer):
    """trl's own trainer, but for its tokenisation: pairs are ids already."""

    def _prepare_dataset(self, dataset: Any, processing_class: Any, args: Any, dataset_name: str) -> Any:
        return dataset


def plain_trainer(
    model: PeftModel, tokenizer: Any, pairs: Sequence[PreferencePair], how: DPOSettings, folder: Path
) -> PlainTrainer:
    """trl's own trainer, each step one batch; the reference is the model as it stands, which trl copies and runs."""
    train, loss = how.train, LOSSES[how.train.loss]
    arguments = DPOConfig(
        output_dir=str(folder),
        loss_type=list(loss.terms),
        loss_weights=list(loss.weights),
        beta=train.beta,
        label_smoothing=train.label_smoothing,
        learning_rate=train.learning_rate,
        lr_scheduler_type=train.schedule,
        max_grad_norm=train.max_grad_norm,
        num_train_epochs=train.epochs,
        per_device_train_batch_size=train.batch_size,
        gradient_checkpointing=how.gradient_checkpointing,
        max_length=train.max_length,
        seed=0,
        bf16=False,
        use_cpu=True,
        save_strategy="no",
        logging_steps=1,
        report_to=[],
        disable_tqdm=True,
    )
    rows = [{"prompt_ids": p.prompt_ids, "chosen_ids": p.chosen_ids, "rejected_ids": p.rejected_ids} for p in pairs]
    return PlainTrainer(model=model, args=arguments, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)


def our_trainer(
    model: PeftModel, tokenizer: Any, pairs: Sequence[PreferencePair], how: DPOSettings, folder: Path
) -> PairTrainer:
    """Our trainer; the reference is the model as it stands."""
    given: list[ReferenceLogprobs] = references(model, tokenizer, pairs, how.speed)
    return make_trainer(model, tokenizer, pairs, given, how, 0, folder)


@dataclass(frozen=True)
class Trained:
    """What a training logged at each step, the gradients that each step took, and the adapter it came to."""

    steps: list[dict[str, float]]
    gradients: list[dict[str, torch.Tensor]]
    adapter: dict[str, torch.Tensor]


def run(model: PeftModel, trainer: DPOTrainer) -> Trained:
    """Train to the end, from where the policy is away from its reference."""
    move(model, seed=1)
    kept = _Gradients()
    trainer.add_callback(kept)
    trainer.train()
    steps = [entry for entry in trainer.state.log_history if "loss" in entry]
    return Trained(steps, kept.gradients, _adapter(model))


def train_plainly(
    folder: Path, pairs: Sequence[PreferencePair], how: DPOSettings, scratch: Path, attention: str = "eager"
) -> Trained:
    """Train as trl does by itself."""
    with trainable(folder, PLAIN, how.train.lora, attention, EXACT) as (model, tokenizer):
        return run(model, plain_trainer(model, tokenizer, pairs, how, scratch))


def train(
    folder: Path, pairs: Sequence[PreferencePair], how: DPOSettings, scratch: Path, attention: str = "eager"
) -> Trained:
    """Train as this project does."""
    with trainable(folder, how.speed, how.train.lora, attention, EXACT) as (model, tokenizer):
        trainer = our_trainer(model, tokenizer, pairs, how, scratch)
        with fast_forward(model.get_base_model(), how.speed):
            return run(model, trainer)


# As the stage trains


@dataclass(frozen=True)
class InStage:
    """What the stage's training came to, the tokens that it counted, and what it said."""

    metrics: Metrics
    adapter: dict[str, torch.Tensor]
    tokens: int
    notes: list[str]


def train_in_stage(
    folder: Path, pairs: Sequence[PreferencePair], scratch: Path, how: DPOSettings, group: Group = ALONE
) -> InStage:
    """Train as the stage does, from a policy that is its own reference."""
    recorder = Recorder()
    work = Work(scratch / "policy", 0, recorder, NoMeter(), group)
    with trainable(folder, how.speed, how.train.lora) as (model, tokenizer):
        given = references(model, tokenizer, pairs, how.speed)
        metrics = train_dpo(model, tokenizer, pairs, given, how, Start(reference="itself", seed=0), work)
        return InStage(metrics, _adapter(model), work.total_cost().tokens, recorder.notes)


def assert_same(found: InStage, expected: InStage) -> None:
    """To the last bit; what was said may be another thing."""
    assert found.metrics == expected.metrics
    assert found.tokens == expected.tokens
    assert all(torch.equal(found.adapter[name], tensor) for name, tensor in expected.adapter.items())


def _adapter(model: PeftModel) -> dict[str, torch.Tensor]:
    weights = get_peft_model_state_dict(model, adapter_name=TRAINED)
    return {name: tensor.clone() for name, tensor in weights.items()}


class _Gradients(TrainerCallback):
    """Keeps the gradients of every step."""

    def __init__(self) -> None:
        self.gradients: list[dict[str, torch.Tensor]] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        parameters = kwargs["model"].named_parameters()
        self.gradients.append({name: p.grad.clone() for name, p in parameters if p.grad is not None})
