"""The other side: DPO as a competent user writes it today, with trl, peft and transformers alone."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel
from transformers import PrinterCallback
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer

from selfreward.config import TrainConfig
from selfreward.records import PreferencePair


class TokenTrainer(DPOTrainer):
    """trl's trainer, given the tokens that were sampled: both sides train on the same ids."""

    def _prepare_dataset(self, dataset: Any, processing_class: Any, args: Any, dataset_name: str) -> Any:
        return dataset


@dataclass(frozen=True)
class Choice:
    """What is left to the user: attention, micro-batch, autocast, checkpointing."""

    attention: str = "sdpa"
    micro_batch: int = 4
    autocast: bool = True
    checkpointing: bool = True


def plain_trainer(
    base: Any,
    tokenizer: Any,
    pairs: Sequence[PreferencePair],
    train: TrainConfig,
    choice: Choice,
    start: Path | None = None,
) -> DPOTrainer:
    """A plain trainer, the optimiser's settings as in `train`, all else as trl has it.

    The adapter is a fresh one, or that in the folder `start`. The reference is the base model, for which trl switches
    the adapter off; or a copy that trl makes of the adapter of `start`.
    """
    base.set_attn_implementation(choice.attention)
    torch.manual_seed(0)
    lora = LoraConfig(r=train.lora.r, lora_alpha=train.lora.alpha, target_modules="all-linear", task_type="CAUSAL_LM")
    rows = {
        "prompt_ids": [pair.prompt_ids for pair in pairs],
        "chosen_ids": [pair.chosen_ids for pair in pairs],
        "rejected_ids": [pair.rejected_ids for pair in pairs],
    }
    arguments = DPOConfig(
        output_dir=tempfile.mkdtemp(),
        beta=train.beta,
        learning_rate=train.learning_rate,
        lr_scheduler_type=train.schedule,
        max_grad_norm=train.max_grad_norm,
        weight_decay=train.weight_decay,
        per_device_train_batch_size=choice.micro_batch,
        gradient_accumulation_steps=train.batch_size // choice.micro_batch,
        gradient_checkpointing=choice.checkpointing,
        bf16=choice.autocast,
        max_length=train.max_length,
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=torch.cuda.is_available(),
        num_train_epochs=1,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        seed=0,
    )
    made = TokenTrainer(
        model=PeftModel.from_pretrained(base, str(start), is_trainable=True) if start else base,
        args=arguments,
        train_dataset=Dataset.from_dict(rows),
        processing_class=tokenizer,
        peft_config=None if start else lora,
    )
    made.remove_callback(PrinterCallback)
    return made
