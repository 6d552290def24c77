"""The other side: sampling and judging as a competent user writes them with transformers and peft alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel

from selfreward.engines.base import Decoding
from selfreward.model.adapters import Adapter
from selfreward.model.models import Models
from selfreward.precision import fast_dtype

FAST = fast_dtype("auto")
"""The type of number that this machine is fast in. Where that is float32, bfloat16 is not tried:
it is 6 to 9 times as slow."""


@dataclass(frozen=True)
class Way:
    """What is left to the user: attention, rows in a batch, type of number."""

    attention: str = "sdpa"
    rows: int = 64
    dtype: str = FAST


if torch.cuda.is_available():
    WAYS = [Way("sdpa", 256), Way("sdpa", 1024), Way("eager", 1024)]
else:
    WAYS = [Way("sdpa", 32), Way("sdpa", 64), Way("eager", 32), Way("eager", 64)]
if FAST == "bfloat16" and not torch.cuda.is_available():
    WAYS.append(Way("sdpa", 64, "float32"))


class Generating:
    """`generate` on prompts padded on the left, those of like length together, with peft's own adapter layers."""

    def __init__(self, models: dict[str, Models], adapter: Adapter | None, way: Way) -> None:
        chosen = models[way.dtype]
        self._way = way
        self._tokenizer = chosen.chat.tokenizer
        self._ends = set(chosen.chat.end_ids)
        self._base = chosen.base
        self.model: Any = PeftModel.from_pretrained(self._base, str(adapter.folder)) if adapter else self._base

    def __enter__(self) -> Generating:
        self._base.set_attn_implementation(self._way.attention)
        return self

    def __exit__(self, *_: object) -> None:
        if self.model is not self._base:
            self.model.unload()

    @torch.inference_mode()
    def sample(self, prompts: Sequence[list[int]], answers: int, decoding: Decoding) -> list[list[list[int]]]:
        """The tokens of `answers` answers to each prompt, up to and with the token that ends them."""
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        size = max(self._way.rows // answers, 1)
        made: dict[int, list[list[int]]] = {}
        for start in range(0, len(order), size):
            batch = order[start : start + size]
            inputs = self._tokenizer.pad(
                {"input_ids": [prompts[i] for i in batch]}, return_tensors="pt", padding_side="left"
            ).to(self._base.device)
            generated = self.model.generate(
                **inputs,
                do_sample=True,
                temperature=decoding.temperature,
                top_p=decoding.top_p,
                top_k=0,
                max_new_tokens=decoding.max_new_tokens,
                num_return_sequences=answers,
                pad_token_id=self._tokenizer.pad_token_id,
            )
            new = generated[:, inputs["input_ids"].shape[1] :].tolist()
            for place, i in enumerate(batch):
                made[i] = [self._cut(row) for row in new[place * answers : (place + 1) * answers]]
        return [made[i] for i in range(len(prompts))]

    def _cut(self, row: list[int]) -> list[int]:
        end = next((place for place, token in enumerate(row) if token in self._ends), len(row) - 1)
        return row[: end + 1]
