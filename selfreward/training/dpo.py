"""DPO (arXiv 2305.18290, equation 7) with LoRA through trl, on the token ids that were sampled."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel
from transformers import PrinterCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer

from selfreward.config import MemoryConfig, TrainConfig
from selfreward.errors import TrainingError
from selfreward.models import TRAINED
from selfreward.records import PreferencePair
from selfreward.store import Metrics, Work
from selfreward.training.checkpoint import CheckpointCallback, newest_whole
from selfreward.training.losses import LOSSES, STARTS_AT_LN_2
from selfreward.training.shared_prompt import share_prompts

REFERENCE = "ref"  # the adapter name under which trl looks for the reference
_START_TOLERANCE = 0.02  # nats of loss: the same weights, apart from bfloat16 rounding in another batch layout


@dataclass(frozen=True)
class Start:
    """What training begins from: whether the policy equals its reference, and the trainer's random seed."""

    equals_reference: bool
    seed: int


class PairTrainer(DPOTrainer):
    """trl's trainer on pairs that are token ids already: nothing is tokenized again, and nothing is dropped.

    Each pair weighs the same in an optimiser step. The trainer takes the mean of its micro-batches' means, in which a
    pair of a smaller last micro-batch would weigh more, and the micro-batch would change the result.
    """

    _pairs_in_step = 0
    _batches_in_step = 0

    def _prepare_dataset(self, dataset: Any, processing_class: Any, args: Any, dataset_name: str) -> Any:
        return dataset

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """The micro-batches of the next step, counted."""
        batches, items = super().get_batch_samples(*args, **kwargs)
        self._batches_in_step = len(batches)
        self._pairs_in_step = sum(_pair_count(batch) for batch in batches)
        return batches, items

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """trl's mean over the micro-batch, weighted by its share of the step's pairs; outside a step, just the mean."""
        loss = super().compute_loss(model, inputs, *args, **kwargs)
        if not self._pairs_in_step:
            return loss
        return loss * (_pair_count(inputs) * self._batches_in_step / self._pairs_in_step)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write none: a checkpoint lives for minutes."""


def make_trainer(
    model: PeftModel,
    tokenizer: Any,
    pairs: Sequence[PreferencePair],
    train: TrainConfig,
    memory: MemoryConfig,
    seed: int,
    folder: Path,
) -> PairTrainer:
    """A trainer over `pairs`. The reference is a frozen copy of the adapter as it is now, or the base model.

    Raises `TrainingError` where nothing would be trained.
    """
    trainer = PairTrainer(
        model=model,
        args=_arguments(train, memory, seed, folder, model.device.type),
        train_dataset=_dataset(pairs),
        processing_class=tokenizer,
    )
    trainer.remove_callback(PrinterCallback)
    if train.reference == "base":
        model.delete_adapter(REFERENCE)  # then trl switches the adapters off for the reference
        model.set_adapter(TRAINED)
    if memory.share_prompt:
        share_prompts(model.get_base_model())
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise TrainingError("the adapter has no trainable parameter: check train.lora.target_modules")
    return trainer


def train_dpo(
    model: PeftModel,
    tokenizer: Any,
    pairs: Sequence[PreferencePair],
    train: TrainConfig,
    memory: MemoryConfig,
    start: Start,
    work: Work,
) -> Metrics:
    """Train the adapter in place, resuming from the last checkpoint that can be trusted.

    Raises `TrainingError` where the first loss shows that policy and reference differ though they should not, or where
    the adapter did not change.
    """
    resumed = newest_whole(work.scratch)
    if resumed:
        work.earlier += resumed[1]
    trainer = make_trainer(model, tokenizer, pairs, train, memory, start.seed, work.scratch)
    trainer.add_callback(CheckpointCallback(memory.checkpoint_seconds, lambda: work.cost))
    trainer.add_callback(_Progress(work))
    before = _snapshot(model)
    trainer.train(resume_from_checkpoint=str(resumed[0]) if resumed else None)
    curve = [entry for entry in trainer.state.log_history if "rewards/margins" in entry]
    if start.equals_reference and train.loss in STARTS_AT_LN_2:
        check_start(curve[0]["loss"])
    if all(torch.equal(old, new) for old, new in zip(before, _snapshot(model), strict=True)):
        raise TrainingError("training left the adapter as it was: raise train.learning_rate or train.epochs")
    return {
        "pairs": len(pairs),
        "steps": trainer.state.global_step,
        "trainable_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "loss": [entry["loss"] for entry in curve],
        "reward_margin": [entry["rewards/margins"] for entry in curve],
        "reward_accuracy": [entry["rewards/accuracies"] for entry in curve],
        "gradient_norm": [entry["grad_norm"] for entry in curve],
    }


def check_start(loss: float) -> None:
    """A policy that equals its reference starts at a loss of ln 2. Raises `TrainingError` where it doesn't."""
    if abs(loss - math.log(2)) > _START_TOLERANCE:
        raise TrainingError(
            f"the first loss is {loss:.4f}, not ln 2: the reference is not the policy that training began with"
        )


def _arguments(train: TrainConfig, memory: MemoryConfig, seed: int, folder: Path, device: str) -> DPOConfig:
    loss = LOSSES[train.loss]
    return DPOConfig(
        output_dir=str(folder),
        loss_type=list(loss.terms),
        loss_weights=list(loss.weights),
        beta=train.beta,
        label_smoothing=train.label_smoothing,
        learning_rate=train.learning_rate,
        lr_scheduler_type=train.schedule,
        warmup_steps=train.warmup_ratio,
        weight_decay=train.weight_decay,
        max_grad_norm=train.max_grad_norm,
        num_train_epochs=train.epochs,
        per_device_train_batch_size=memory.micro_batch,
        gradient_accumulation_steps=train.batch_size // memory.micro_batch,
        gradient_checkpointing=memory.gradient_checkpointing,
        max_length=train.max_length,
        disable_dropout=train.lora.dropout == 0,
        seed=seed,
        bf16=False,  # the base is loaded in its dtype and the adapter in float32: autocast would add nothing
        use_cpu=device == "cpu",
        dataloader_pin_memory=device == "cuda",
        save_strategy="no",  # `CheckpointCallback` decides
        logging_steps=1,
        report_to=[],
        disable_tqdm=True,
    )


def _dataset(pairs: Sequence[PreferencePair]) -> Dataset:
    return Dataset.from_dict(
        {
            "prompt_ids": [pair.prompt_ids for pair in pairs],
            "chosen_ids": [pair.chosen_ids for pair in pairs],
            "rejected_ids": [pair.rejected_ids for pair in pairs],
        }
    )


def _pair_count(batch: Any) -> int:
    return len(batch["input_ids"]) // 2  # the first half is chosen, the second rejected


def _snapshot(model: PeftModel) -> list[torch.Tensor]:
    return [parameter.detach().to("cpu", copy=True) for parameter in model.parameters() if parameter.requires_grad]


class _Progress(TrainerCallback):
    def __init__(self, work: Work) -> None:
        self._work = work
        self._steps = 0
        self._tokens = 0.0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._steps = state.global_step
        self._work.plan(state.max_steps, "steps")
        self._work.advance(state.global_step)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if logs and "num_tokens" in logs:
            self._work.advance(state.global_step - self._steps, round(logs["num_tokens"] - self._tokens))
            self._steps, self._tokens = state.global_step, logs["num_tokens"]
