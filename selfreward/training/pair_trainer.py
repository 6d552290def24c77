"""trl's DPO trainer on pairs that are token ids already."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from trl.trainer.dpo_trainer import DPOTrainer

from selfreward.training.micro_batches import Batch, MicroBatches


class PairTrainer(MicroBatches, DPOTrainer):
    """Examples are pairs: trl's rows are all chosen, then all rejected."""

    example, settings_key, length_key = "pair", "train", "sampling.max_new_tokens"

    def count(self, batch: Batch) -> int:
        """Half the rows."""
        return len(batch["input_ids"]) // 2

    def cut(self, batch: Batch, taken: Sequence[int], size: int) -> Iterator[Batch]:
        """Cut to their longest row too."""
        pairs = self.count(batch)
        for start in range(0, len(taken), size):
            chosen = torch.tensor(taken[start : start + size], device=batch["input_ids"].device)
            rows = torch.cat([chosen, chosen + pairs])
            length = int(batch["attention_mask"][rows].sum(-1).max())
            yield {
                name: values[chosen] if values.ndim == 1 else values[rows, :length] for name, values in batch.items()
            }

    def tokens(self, row: dict[str, Any]) -> int:
        """The prompt counts once."""
        return len(row["prompt_ids"]) + len(row["chosen_ids"]) + len(row["rejected_ids"])
