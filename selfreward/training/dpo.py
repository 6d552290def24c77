"""DPO (arXiv 2305.18290, equation 7) with LoRA through trl, on the token ids that were sampled."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from datasets import Dataset
from peft import PeftModel
from transformers import PrinterCallback
from trl.trainer.dpo_config import DPOConfig

from selfreward.config import MemoryConfig, SpeedConfig, TrainConfig
from selfreward.errors import TrainingError
from selfreward.group import ALONE
from selfreward.model.lora import TRAINED
from selfreward.records import PreferencePair, ReferenceLogprobs
from selfreward.store import Metrics, Work
from selfreward.training.forward import fast_forward
from selfreward.training.losses import LOSSES, STARTS_AT_LN_2
from selfreward.training.pair_trainer import PairTrainer
from selfreward.training.reference import PARITY_TOLERANCE, check_parity
from selfreward.training.session import adapter_kept, arguments, fit

_REFERENCE = "ref"  # the adapter name under which trl keeps a copy as the reference


@dataclass(frozen=True)
class DPOSettings:
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
    """What training begins from: what the reference is to the policy, and the trainer's random seed."""

    reference: Literal["itself", "base", "another"]
    seed: int


def make_trainer(
    model: PeftModel,
    tokenizer: Any,
    pairs: Sequence[PreferencePair],
    references: Sequence[ReferenceLogprobs],
    settings: DPOSettings,
    seed: int,
    folder: Path,
) -> PairTrainer:
    """A trainer over `pairs`, whose reference log-probabilities are given: no reference model is run or kept."""
    with adapter_kept(model):
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
    return trainer


def train_dpo(
    model: PeftModel,
    tokenizer: Any,
    pairs: Sequence[PreferencePair],
    references: Sequence[ReferenceLogprobs],
    settings: DPOSettings,
    start: Start,
    work: Work,
) -> Metrics:
    """Train the adapter in place, resuming from the last checkpoint that can be trusted.

    Raises `TrainingError` where the references are not what training computes, where the first loss shows that policy
    and reference differ though they should not, and where `fit` does.
    """
    trainer = make_trainer(model, tokenizer, pairs, references, settings, start.seed, work.scratch)
    with fast_forward(model.get_base_model(), settings.speed):
        model.eval()
        parity = None  # another adapter is not in memory now
        if start.reference != "another":
            with nullcontext() if start.reference == "itself" else model.disable_adapter():
                parity = check_parity(model, tokenizer, pairs, references)
        fit(trainer, model, work, settings.memory, preflight=settings.preflight)
    curve = [entry for entry in trainer.state.log_history if "rewards/margins" in entry]
    exact = start.reference == "itself" and settings.train.lora.dropout == 0
    if exact and settings.train.loss in STARTS_AT_LN_2:
        # A loss by the mean of an answer's tokens rounds as one token does; by their sum, as the root of their number.
        length = fmean(len(pair.chosen_ids + pair.rejected_ids) for pair in pairs)
        roundings = 1.0 if settings.train.loss == "sigmoid_norm" else math.sqrt(length)
        check_start(curve[0]["loss"], settings.train.beta, PARITY_TOLERANCE[model.dtype] * roundings)
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


def check_start(loss: float, beta: float, tolerance: float) -> None:
    """A policy that equals its reference starts at a loss of ln 2, as far as rounding lets it: near there the loss
    falls by beta / 2 for each nat by which policy and reference differ in a pair; `tolerance` is how many they may.

    Raises `TrainingError` where it doesn't.
    """
    off = abs(loss - math.log(2)) / (beta / 2)
    if not off <= tolerance:
        raise TrainingError(
            f"the first loss is {loss:.4f}, not ln 2: policy and reference differ by {off:.3g} nats a pair, more than "
            f"{tolerance:.3g}; the reference is not the policy that training began with"
        )


def _arguments(settings: DPOSettings, seed: int, folder: Path, device: str) -> DPOConfig:
    train, loss = settings.train, LOSSES[settings.train.loss]
    shared = arguments(train, seed, folder, device, gradient_checkpointing=settings.gradient_checkpointing)
    return DPOConfig(
        **shared,
        loss_type=list(loss.terms),
        loss_weights=list(loss.weights),
        beta=train.beta,
        label_smoothing=train.label_smoothing,
        max_length=train.max_length,
        disable_dropout=train.lora.dropout == 0,
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
