"""What all training has in common: it goes on from its last checkpoint, says how far it is, and must have learned."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from selfreward.config import MemoryConfig, TrainConfig, TuningConfig
from selfreward.errors import TrainingError
from selfreward.store import Cost, Work
from selfreward.training.checkpoint import CheckpointCallback, newest_whole
from selfreward.training.micro_batches import MicroBatches


def arguments(
    optimiser: TrainConfig | TuningConfig, seed: int, folder: Path, device: str, *, gradient_checkpointing: bool
) -> dict[str, Any]:
    """What all of trl's trainers are told alike."""
    return {
        "output_dir": str(folder),
        "learning_rate": optimiser.learning_rate,
        "lr_scheduler_type": optimiser.schedule,
        "warmup_steps": optimiser.warmup_ratio,
        "weight_decay": optimiser.weight_decay,
        "max_grad_norm": optimiser.max_grad_norm,
        "num_train_epochs": optimiser.epochs,
        "per_device_train_batch_size": optimiser.batch_size,  # `MicroBatches` cuts it
        "gradient_checkpointing": gradient_checkpointing,
        "seed": seed,
        "router_aux_loss_coef": 0.0,  # the loss is the preset's alone, which no other pair of a batch enters
        "bf16": False,  # the base is loaded in its dtype and the adapter in float32: autocast would add nothing
        "use_cpu": device == "cpu",
        "dataloader_pin_memory": device == "cuda",
        "save_strategy": "no",  # `CheckpointCallback` decides
        "logging_steps": 1,
        "report_to": [],
        "disable_tqdm": True,
    }


@contextmanager
def adapter_kept(model: PeftModel) -> Iterator[None]:
    """Within it trl makes a trainer. Afterwards the adapter is as it was: trl rounds that of a quantised base to
    bfloat16, in which small steps are lost."""
    before = {name: parameter.data for name, parameter in model.named_parameters() if parameter.requires_grad}
    yield
    for name, parameter in model.named_parameters():
        if name in before:
            parameter.data = before[name]


def fit(trainer: MicroBatches, model: PeftModel, work: Work, memory: MemoryConfig, *, preflight: bool) -> None:
    """Train the adapter in place, resuming from the last checkpoint that can be trusted.

    `preflight` runs the longest step first and forgets it.

    Raises `TrainingError` where nothing is to be trained, where the adapter did not change or is no number any more, or
    where processes came to different ones.
    """
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise TrainingError("the adapter has no trainable parameter: check train.lora.target_modules")
    resumed = work.group.broadcast(lambda: newest_whole(work.scratch))
    trainer.note = work.note
    trainer.group = work.group
    if work.group.leads:  # the processes hold the same adapter after every step: one keeps account, and checkpoints
        work.earlier += resumed[1] if resumed else Cost()
        trainer.add_callback(CheckpointCallback(memory.checkpoint_seconds, lambda: work.cost))
        trainer.add_callback(_Progress(work))
    before = _snapshot(model)
    if preflight:
        trainer.preflight()
    trainer.train(resume_from_checkpoint=str(resumed[0]) if resumed else None)
    after = _snapshot(model)
    if all(torch.equal(old, new) for old, new in zip(before, after, strict=True)):
        raise TrainingError(
            f"training left the adapter as it was: raise {trainer.settings_key}.learning_rate or "
            f"{trainer.settings_key}.epochs, or set {trainer.settings_key}.warmup_ratio=0: the first step of a warm-up "
            "learns nothing"
        )
    if not all(tensor.isfinite().all() for tensor in after):
        raise TrainingError(
            f"training diverged, and the adapter is no number any more: lower {trainer.settings_key}.learning_rate, or "
            "use model.dtype=bfloat16 in place of float16"
        )
    if len(set(work.group.gather(_sha256(after)))) > 1:
        raise TrainingError("the processes came to different adapters: use devices of one kind, or launch=single")


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
