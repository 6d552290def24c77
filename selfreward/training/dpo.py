"""DPO (arXiv 2305.18290, equation 7) with LoRA through trl, on the token ids that were sampled."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel
from transformers import PrinterCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl.trainer.dpo_config import DPOConfig

from selfreward.config import MemoryConfig, SpeedConfig, TrainConfig
from selfreward.errors import TrainingError
from selfreward.group import ALONE
from selfreward.models import TRAINED
from selfreward.records import PreferencePair, ReferenceLogprobs
from selfreward.store import Cost, Metrics, Work
from selfreward.training.checkpoint import CheckpointCallback, newest_whole
from selfreward.training.forward import fast_forward
from selfreward.training.losses import LOSSES, STARTS_AT_LN_2
from selfreward.training.reference import check_parity
from selfreward.training.trainer import PairTrainer

_REFERENCE = "ref"  # the adapter name under which trl keeps a copy as the reference
_START_TOLERANCE = 0.02  # nats of loss: the same weights, apart from bfloat16 rounding in another batch layout


@dataclass(frozen=True)
class Settings:
    """How to train: what is learned, and how the work is cut to fit the memory.

    `preflight` runs the longest step first and forgets it.
    """

    train: TrainConfig
    memory: MemoryConfig
    speed: SpeedConfig
    micro_batch: int
    gradient_checkpointing: bool
    preflight: bool


@dataclass(frozen=True)
class Start:
    """What training begins from: whether the policy equals its reference, and the trainer's random seed."""

    equals_reference: bool
    seed: int


def make_trainer(
    model: PeftModel,
    tokenizer: Any,
    pairs: Sequence[PreferencePair],
    references: Sequence[ReferenceLogprobs],
    settings: Settings,
    seed: int,
    folder: Path,
) -> PairTrainer:
    """A trainer over `pairs`, whose reference log-probabilities are given: no reference model is run or kept.

    Raises `TrainingError` where nothing would be trained.
    """
    trainer = PairTrainer(
        model=model,
        args=_arguments(settings, seed, folder, model.device.type),
        train_dataset=_dataset(pairs, references),
        processing_class=tokenizer,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.precompute_ref_logps = True  # as a setting it would hash all the weights
    model.delete_adapter(_REFERENCE)
    model.set_adapter(TRAINED)
    trainer.micro_batch = settings.micro_batch
    trainer.ram_gb = settings.memory.ram_gb
    trainer.note = lambda _: None
    trainer.group = ALONE
    trainer.splits = not LOSSES[settings.train.loss].couples_pairs
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise TrainingError("the adapter has no trainable parameter: check train.lora.target_modules")
    return trainer


def train_dpo(
    model: PeftModel,
    tokenizer: Any,
    pairs: Sequence[PreferencePair],
    references: Sequence[ReferenceLogprobs],
    settings: Settings,
    start: Start,
    work: Work,
) -> Metrics:
    """Train the adapter in place, resuming from the last checkpoint that can be trusted.

    Raises `TrainingError` where the references are not what training computes, where the first loss shows that policy
    and reference differ though they should not, or where the adapter did not change.
    """
    resumed = work.group.share(lambda: newest_whole(work.scratch))
    trainer = make_trainer(model, tokenizer, pairs, references, settings, start.seed, work.scratch)
    trainer.note = work.note
    trainer.group = work.group
    if work.group.leads:  # the processes hold the same adapter after every step: one keeps account, and checkpoints
        work.earlier += resumed[1] if resumed else Cost()
        trainer.add_callback(CheckpointCallback(settings.memory.checkpoint_seconds, lambda: work.cost))
        trainer.add_callback(_Progress(work))
    before = _snapshot(model)
    with fast_forward(model.get_base_model(), settings.speed):
        model.eval()
        with nullcontext() if start.equals_reference else model.disable_adapter():
            parity = check_parity(model, tokenizer, pairs, references)
        if settings.preflight:
            trainer.preflight()
        trainer.train(resume_from_checkpoint=str(resumed[0]) if resumed else None)
    curve = [entry for entry in trainer.state.log_history if "rewards/margins" in entry]
    exact = start.equals_reference and settings.train.lora.dropout == 0
    if exact and settings.train.loss in STARTS_AT_LN_2:
        check_start(curve[0]["loss"])
    after = _snapshot(model)
    if all(torch.equal(old, new) for old, new in zip(before, after, strict=True)):
        raise TrainingError("training left the adapter as it was: raise train.learning_rate or train.epochs")
    if len(set(work.group.gather(_sha256(after)))) > 1:
        raise TrainingError("the processes came to different adapters: use devices of one kind, or launch=single")
    return {
        "pairs": len(pairs),
        "steps": trainer.state.global_step,
        "trainable_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "reference_parity": parity,
        "micro_batch": trainer.micro_batch,
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


def _arguments(settings: Settings, seed: int, folder: Path, device: str) -> DPOConfig:
    train, loss = settings.train, LOSSES[settings.train.loss]
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
        per_device_train_batch_size=train.batch_size,  # `PairTrainer` cuts it into micro-batches
        gradient_checkpointing=settings.gradient_checkpointing,
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


def _dataset(pairs: Sequence[PreferencePair], references: Sequence[ReferenceLogprobs]) -> Dataset:
    known = {(r.prompt_id, r.chosen_index, r.rejected_index): r for r in references}
    ordered = [known[pair.prompt_id, pair.chosen_index, pair.rejected_index] for pair in pairs]
    return Dataset.from_dict(
        {
            "prompt_ids": [pair.prompt_ids for pair in pairs],
            "chosen_ids": [pair.chosen_ids for pair in pairs],
            "rejected_ids": [pair.rejected_ids for pair in pairs],
            "ref_chosen_logps": [math.fsum(reference.chosen) for reference in ordered],
            "ref_rejected_logps": [math.fsum(reference.rejected) for reference in ordered],
        }
    )


def _snapshot(model: PeftModel) -> list[torch.Tensor]:
    return [parameter.detach().to("cpu", copy=True) for parameter in model.parameters() if parameter.requires_grad]


def _sha256(tensors: Sequence[torch.Tensor]) -> str:
    return hashlib.sha256(
        b"".join(tensor.flatten().view(torch.uint8).numpy().tobytes() for tensor in tensors)
    ).hexdigest()


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
