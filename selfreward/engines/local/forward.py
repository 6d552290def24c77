"""What the default engine asks of a model's forward pass. Two ways answer: `shared_forward` and `padded_forward`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from torch import Tensor


class Answers(Protocol):
    """Answers that grow side by side."""

    def step(self, token_B: Tensor) -> Tensor:
        """The final states (B, H) after each answer's next token."""
        ...

    def keep(self, rows: Tensor) -> None:
        """Drop all answers but these."""
        ...


class Forward(Protocol):
    """Final hidden states, before the output layer. `computed` counts the tokens that went through the model."""

    computed: int

    def drops(self, finished: int, rows: int, steps: int) -> bool:
        """Whether it pays to drop the finished ones of so many answers, with at most `steps` still to come."""
        ...

    def ready(self) -> AbstractContextManager[None]:
        """All passes are made within it."""
        ...

    def last_states(self, rows: Sequence[list[int]]) -> Iterator[tuple[list[int], Tensor]]:
        """Batches of rows, by their places, and the state (B, H) of each one's last token."""
        ...

    def states(self, rows: Sequence[list[int]]) -> Iterator[tuple[list[int], list[Tensor]]]:
        """Batches of rows, by their places, and the states (L, H) of all their tokens."""
        ...

    def prompts(self, rows: Sequence[list[int]]) -> Prompts:
        """Prompts that are to be answered, made ready for `Prompts.open`."""
        ...


class Prompts(Protocol):
    """Prompts of which some at a time are answered."""

    def open(self, batch: Sequence[int], answers: int, steps: int) -> tuple[Tensor, Answers]:
        """The last states (P, H) of the prompts at these places, and `answers` empty answers to each, of `steps` tokens
        at most."""
        ...


_DROP_SHARE = 0.125


def many_finished(finished: int, rows: int) -> bool:
    """Whether finished answers are worth a copy of the keys and values of all others."""
    return finished >= max(1, _DROP_SHARE * rows)
