"""Engines that judges are tried on: one that replies as told, one that notes what it read; and plain forward passes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, LlamaForCausalLM

from selfreward.engines.base import Advance, Completion, Decoding, SampleRequest
from selfreward.engines.hf import HFEngine
from selfreward.model.adapters import Adapter
from selfreward.model.chat import Chat


class Progress:
    """Adds up what it is told."""

    def __init__(self) -> None:
        self.units = 0.0
        self.tokens = 0

    def advance(self, units: float, tokens: int) -> None:
        self.units += units
        self.tokens += tokens


@dataclass
class Scripted:
    """An engine whose every sampled answer is the next of `replies`, in the order of requests and seeds."""

    chat: Chat
    replies: Sequence[str]
    asked: list[SampleRequest] = field(default_factory=list)

    def sample(
        self, requests: Sequence[SampleRequest], decoding: Decoding, adapter: Adapter | None, advance: Advance
    ) -> list[list[Completion]]:
        self.asked.extend(requests)
        replies = iter(self.replies)
        return [[self._completion(next(replies)) for _ in request.seeds] for request in requests]

    def _completion(self, reply: str) -> Completion:
        ids = self.chat.tokenizer(reply)["input_ids"]
        return Completion(ids, [0.0] * len(ids), True)

    def score(
        self, prompts: Sequence[list[int]], choice_ids: Sequence[int], adapter: Adapter | None, advance: Advance
    ) -> list[list[float]]:
        raise NotImplementedError

    def logprobs(
        self, prompts: Sequence[list[int]], completions: Sequence[list[int]], adapter: Adapter | None, advance: Advance
    ) -> list[list[float]]:
        raise NotImplementedError

    def close(self) -> None:
        """Nothing was started."""


class Reading(HFEngine):
    """The default engine; it notes how many prompts it read, and for how many choices, and samples nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.read: list[tuple[int, int]] = []

    def sample(self, *args: Any, **kwargs: Any) -> list[list[Completion]]:
        raise AssertionError("one prefill is enough")

    def score(
        self, prompts: Sequence[list[int]], choice_ids: Sequence[int], adapter: Adapter | None, advance: Advance
    ) -> list[list[float]]:
        self.read.append((len(prompts), len(choice_ids)))
        return super().score(prompts, choice_ids, adapter, advance)


def next_token(
    model: LlamaForCausalLM, folder: Path, message: str, opening: str, answers: Sequence[str]
) -> list[float]:
    """The probability of each answer's token after `opening`, by a plain forward pass in float64."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    turns = [{"role": "user", "content": message}]
    text = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"] + tokenizer(opening)["input_ids"]
    with torch.no_grad():
        probabilities = model(input_ids=torch.tensor([ids])).logits[0, -1].softmax(-1)
    return [probabilities[tokenizer.convert_tokens_to_ids(answer)].item() for answer in answers]
