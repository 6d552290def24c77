"""What a loop asks of whatever runs the model: sample answers, score choices, give log-probabilities."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from selfreward.model.adapters import Adapter
from selfreward.model.chat import Chat

Advance = Callable[[float, int], None]
"""Told of progress as it is made: requests done, or the part of one, and tokens computed."""

SHORTEN = (
    "lower sampling.max_prompt_tokens, or max_new_tokens of what is read or written: sampling, evaluation (a duel has "
    "two answers), judge, generation, documents; or data.max_characters where it is people's text"
)
"""What helps where a sequence is longer than an engine can take."""


@dataclass(frozen=True)
class Decoding:
    """How answers are drawn: temperature (0 is greedy), nucleus mass, longest answer in tokens."""

    temperature: float
    top_p: float
    max_new_tokens: int


@dataclass(frozen=True)
class SampleRequest:
    """A prompt's tokens and one seed for each answer wanted; an answer's chance comes from its seed alone."""

    prompt_ids: list[int]
    seeds: list[int]


@dataclass(frozen=True)
class Completion:
    """An answer's tokens, the log-probability of each under the untempered policy, and whether it came to its end."""

    token_ids: list[int]
    logprobs: list[float]
    finished: bool


class Engine(Protocol):
    """Runs one base model under any adapter. Results come in the order of the requests.

    What it is asked raises `ModelError` for a text that is too long or an adapter that doesn't fit, `OutOfMemoryError`
    where memory runs out here, and `ServerError` where a server can't be reached or answers with what can't be used.
    """

    @property
    def chat(self) -> Chat:
        """The model's tokenizer and template."""
        ...

    def sample(
        self, requests: Sequence[SampleRequest], decoding: Decoding, adapter: Adapter | None, advance: Advance
    ) -> list[list[Completion]]:
        """For each request one answer a seed."""
        ...

    def score(
        self, prompts: Sequence[list[int]], choice_ids: Sequence[int], adapter: Adapter | None, advance: Advance
    ) -> list[list[float]]:
        """For each prompt the log-probability, over the whole vocabulary, of each choice as the next token."""
        ...

    def logprobs(
        self, prompts: Sequence[list[int]], completions: Sequence[list[int]], adapter: Adapter | None, advance: Advance
    ) -> list[list[float]]:
        """For each prompt and given completion the log-probability of each token of the completion."""
        ...

    def close(self) -> None:
        """End what the engine has started outside this process. It starts it again when it is asked for something."""
        ...
