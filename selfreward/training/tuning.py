"""Supervised tuning on what people wrote, through trl's SFTTrainer: answers word for word, and scores of answers.

The loss is the mean over examples, each with its weight, of the mean over an example's completion: but for the weights
a score of one token counts as much as an answer of a hundred. Nothing is learned from a prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PrinterCallback
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from selfreward.config import MemoryConfig, SpeedConfig, TuningConfig
from selfreward.model.head import Head, mean_row, score_tokens
from selfreward.model.lora import TRAINED
from selfreward.model.patched import attention_of
from selfreward.model.prefix_tree import prefix_tree
from selfreward.store import Metrics, Work
from selfreward.training.examples import Example
from selfreward.training.forward import can_pack, packed_states
from selfreward.training.micro_batches import Batch, MicroBatches
from selfreward.training.packing import PACKED_ATTENTION, pack_texts
from selfreward.training.session import adapter_kept, arguments, fit


@dataclass(frozen=True)
class TuningSettings:
    """What is learned how, and how the work is cut to fit the memory. `preflight` tries the longest step first."""

    tuning: TuningConfig
    memory: MemoryConfig
    speed: SpeedConfig
    micro_batch: int
    micro_batch_tokens: int
    gradient_checkpointing: bool
    preflight: bool


class ExampleTrainer(MicroBatches, SFTTrainer):
    """Takes rows of `Example`, padded.

    Set after construction: `packs`, whether a micro-batch is one row without padding; `most_tokens`, computed in one
    micro-batch unless it has one example; and `surprise`, from states and tokens to the tokens' negative
    log-probabilities, in nats.
    """

    settings_key, length_key = "tuning", "tuning.max_length"
    packs: bool
    most_tokens: int
    surprise: Callable[[Tensor, Tensor], Tensor]

    def count(self, batch: Batch) -> int:
        """The rows."""
        return len(batch["input_ids"])

    def cut(self, batch: Batch, taken: Sequence[int], size: int) -> Iterator[Batch]:
        """Those that begin alike are together, or, where nothing is shared, those of like length. Rows are cut to the
        longest of a micro-batch."""
        lengths = (batch["prompt_lengths"] + batch["completion_lengths"]).tolist()
        texts = {place: batch["input_ids"][place, : lengths[place]].tolist() for place in taken}
        for places in self._micro_batches(texts, size):
            rows = torch.tensor(places, device=batch["input_ids"].device)
            length = max(lengths[place] for place in places)
            yield {name: values[rows, :length] if values.ndim == 2 else values[rows] for name, values in batch.items()}

    def tokens(self, row: dict[str, Any]) -> int:
        """Prompt and completion."""
        return len(row["prompt_ids"]) + len(row["completion_ids"])

    def compute_loss(
        self, model: Any, inputs: Batch, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor:
        """The weighted mean loss of the examples."""
        prompts, completions = inputs["prompt_lengths"].tolist(), inputs["completion_lengths"].tolist()
        lengths = list(zip(prompts, completions, strict=True))
        states = _packed_states if self.packs else _padded_states
        states_TH = states(model.get_base_model(), inputs["input_ids"], lengths)
        target_T = torch.cat([row[p : p + c] for row, (p, c) in zip(inputs["input_ids"], lengths, strict=True)])
        loss_E = torch.stack([part.mean() for part in self.surprise(states_TH, target_T).split(completions)])
        last_E = torch.tensor(completions, device=states_TH.device).cumsum(0) - 1
        weight_E = inputs["other_weights"]
        if weight_E.any():
            other_E = self.surprise(states_TH[last_E], inputs["other_ids"])
            loss_E = (1 - weight_E) * loss_E + weight_E * other_E
        loss_E = loss_E * inputs["weights"]
        self._total_train_tokens += sum(prompts) + sum(completions)
        self._metrics["train"]["num_tokens"] = [self._total_train_tokens]
        return loss_E.mean()

    def _micro_batches(self, texts: Mapping[int, list[int]], size: int) -> Iterator[list[int]]:
        taken: list[int] = []
        for place in sorted(texts, key=lambda p: texts[p] if self.packs else [len(texts[p])]):
            if taken and (len(taken) == size or self._computed([texts[p] for p in [*taken, place]]) > self.most_tokens):
                yield taken
                taken = []
            taken.append(place)
        if taken:
            yield taken

    def _computed(self, texts: Sequence[list[int]]) -> int:
        """The tokens of a micro-batch of these, padding included."""
        if self.packs:
            return sum(len(node.token_ids) for node in prefix_tree(texts))
        return len(texts) * max(map(len, texts))


def tune(
    model: PeftModel,
    tokenizer: Any,
    examples: Sequence[Example],
    settings: TuningSettings,
    seed: int,
    work: Work,
) -> Metrics:
    """Train the adapter in place on examples in the order that the seed gives. Raises as `session.fit` does."""
    checkpointing = settings.gradient_checkpointing
    shared = arguments(settings.tuning, seed, work.scratch, model.device.type, gradient_checkpointing=checkpointing)
    with adapter_kept(model):
        trainer = ExampleTrainer(
            model=model,
            args=SFTConfig(**shared, remove_unused_columns=False, dataset_kwargs={"skip_prepare_dataset": True}),
            data_collator=_collate,
            train_dataset=Dataset.from_list([vars(example) for example in examples]),
            processing_class=tokenizer,
        )
    trainer.remove_callback(PrinterCallback)
    model.set_adapter(TRAINED)
    trainer.micro_batch = settings.micro_batch
    trainer.most_tokens = settings.micro_batch_tokens
    trainer.ram_gb = settings.memory.ram_gb
    trainer.splits = True
    trainer.packs = settings.speed.share_prompt and can_pack(model.get_base_model())
    head = Head(model.get_base_model())
    trainer.surprise = partial(_surprise, head, mean_row(head.weight_VH))
    base: Any = model.get_base_model()
    kernel = base.config._attn_implementation
    with attention_of(base, PACKED_ATTENTION[kernel]) if trainer.packs else nullcontext():
        fit(trainer, model, work, settings.memory, preflight=settings.preflight)
    curve = [entry for entry in trainer.state.log_history if "loss" in entry]
    return {
        "examples": len(examples),
        "steps": trainer.state.global_step,
        "micro_batch": trainer.micro_batch,
        "loss": [entry["loss"] for entry in curve],
        "gradient_norm": [entry["grad_norm"] for entry in curve],
    }


def _collate(rows: Sequence[dict[str, Any]]) -> Batch:
    ids = [torch.tensor(row["prompt_ids"] + row["completion_ids"]) for row in rows]
    return {
        "input_ids": pad_sequence(ids, batch_first=True),
        "prompt_lengths": torch.tensor([len(row["prompt_ids"]) for row in rows]),
        "completion_lengths": torch.tensor([len(row["completion_ids"]) for row in rows]),
        "other_ids": torch.tensor([row["other_id"] for row in rows]),
        "other_weights": torch.tensor([row["other_weight"] for row in rows]),
        "weights": torch.tensor([row["weight"] for row in rows]),
    }


def _packed_states(model: Any, ids_BL: Tensor, lengths: Sequence[tuple[int, int]]) -> Tensor:
    """The states (T, hidden) that predict completion tokens, from one row without padding or repetition."""
    texts = [row[: p + c].tolist() for row, (p, c) in zip(ids_BL, lengths, strict=True)]
    packing, ids_N = pack_texts(texts, [completion for _, completion in lengths])
    return packed_states(model, packing, ids_N.to(ids_BL.device))


def _padded_states(model: Any, ids_BL: Tensor, lengths: Sequence[tuple[int, int]]) -> Tensor:
    """The same from padded rows."""
    ends_B1 = torch.tensor([[p + c] for p, c in lengths], device=ids_BL.device)
    mask_BL = torch.arange(ids_BL.shape[1], device=ids_BL.device) < ends_B1
    output = model.base_model(input_ids=ids_BL, attention_mask=mask_BL.long(), use_cache=False)
    rows = zip(output.last_hidden_state, lengths, strict=True)
    return torch.cat([row[p - 1 : p + c - 1] for row, (p, c) in rows])


def _surprise(head: Head, mean_weight_H: Tensor, states_TH: Tensor, target_T: Tensor) -> Tensor:
    if head.is_plain:
        return -score_tokens(states_TH, head.weight_VH, target_T, mean_weight_H).log_probs_T
    return -head.logits(states_TH).log_softmax(-1).gather(-1, target_T[:, None])[:, 0]
