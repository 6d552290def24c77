"""Forward passes over padded rows with transformers' own cache, for models whose attention can't be exchanged."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from selfreward.engines.local.forward import many_finished
from selfreward.engines.local.halving import halving
from selfreward.model.batches import padded_batches


class PaddedForward:
    """For any causal model.

    Args:
        model: the causal model.
        pad: the token that rows are filled up with.
        tokens: the most tokens in one pass over given texts, padding included.
        check: called after each pass; raises where memory is short.
    """

    def __init__(self, model: Any, pad: int, tokens: int, check: Callable[[], None]) -> None:
        self._model = model
        self._pad = pad
        self._tokens = tokens
        self._check = check
        self.computed = 0

    def ready(self) -> AbstractContextManager[None]:
        """Nothing needs to be done."""
        return nullcontext()

    def drops(self, finished: int, rows: int, steps: int) -> bool:
        """Once they are many."""
        return many_finished(finished, rows)

    def last_states(self, rows: Sequence[list[int]]) -> Iterator[tuple[list[int], Tensor]]:
        """Of each row's last token."""
        for batch, states in self.states(rows):
            yield batch, torch.stack([state_LH[-1] for state_LH in states])

    def states(self, rows: Sequence[list[int]]) -> Iterator[tuple[list[int], list[Tensor]]]:
        """Of all tokens."""
        for batch, state_BLH in halving(padded_batches([*map(len, rows)], self._tokens), partial(self._states, rows)):
            yield batch, [state_BLH[place, : len(rows[row])] for place, row in enumerate(batch)]

    def prompts(self, rows: Sequence[list[int]]) -> PaddedPrompts:
        """Nothing is shared but by the answers to a prompt."""
        return PaddedPrompts(self, rows)

    def run(self, ids_BL: Tensor, mask_BL: Tensor, cache: DynamicCache | None) -> Tensor:
        """One pass: final states (B, L, H). The mask is that of the cache too."""
        positions_BL = (mask_BL.cumsum(1) - 1).clamp(min=0)[:, -ids_BL.shape[1] :]
        output: Any = self._model.get_decoder()(
            input_ids=ids_BL,
            attention_mask=mask_BL,
            position_ids=positions_BL,
            past_key_values=cache,
            use_cache=cache is not None,
        )
        self.computed += int(mask_BL[:, -ids_BL.shape[1] :].sum())
        self._check()
        return output.last_hidden_state

    def padded(self, rows: Sequence[list[int]], *, left: bool) -> tuple[Tensor, Tensor]:
        """Token ids and mask (B, L) of rows, filled up on one side."""
        width = max(len(row) for row in rows)
        empty = [[0] * (width - len(row)) for row in rows]
        ids = [[*gap, *row] if left else [*row, *gap] for gap, row in zip(empty, rows, strict=True)]
        mask = [
            [*gap, *[1] * len(row)] if left else [*[1] * len(row), *gap] for gap, row in zip(empty, rows, strict=True)
        ]
        mask_BL = torch.tensor(mask, device=self._model.device)
        return torch.tensor(ids, device=self._model.device).masked_fill(mask_BL == 0, self._pad), mask_BL

    def new_cache(self) -> Any:
        """An empty cache for this model; the library's own types ask for a kind of tensor that nothing makes."""
        return DynamicCache(config=self._model.config)

    def _states(self, rows: Sequence[list[int]], batch: list[int]) -> Tensor:
        return self.run(*self.padded([rows[row] for row in batch], left=False), None)


class PaddedPrompts:
    """Prompts, filled up on the left."""

    def __init__(self, forward: PaddedForward, rows: Sequence[list[int]]) -> None:
        self._forward = forward
        self._rows = rows

    def open(self, batch: Sequence[int], answers: int, steps: int) -> tuple[Tensor, PaddedAnswers]:
        """A prompt is computed once, and what the cache has of it copied for each answer."""
        ids_PL, mask_PL = self._forward.padded([self._rows[row] for row in batch], left=True)
        cache = self._forward.new_cache()
        state_PH = self._forward.run(ids_PL, mask_PL, cache)[:, -1]
        cache.reorder_cache(torch.arange(len(batch), device=state_PH.device).repeat_interleave(answers))
        return state_PH, PaddedAnswers(self._forward, mask_PL.repeat_interleave(answers, 0), cache)


class PaddedAnswers:
    """Answers with a cache that grows."""

    def __init__(self, forward: PaddedForward, mask_BL: Tensor, cache: Any) -> None:
        self._forward = forward
        self._mask_BL = mask_BL
        self._cache = cache

    def step(self, token_B: Tensor) -> Tensor:
        """One more token each."""
        self._mask_BL = torch.cat([self._mask_BL, self._mask_BL.new_ones(len(token_B), 1)], 1)
        return self._forward.run(token_B[:, None], self._mask_BL, self._cache)[:, -1]

    def keep(self, rows: Tensor) -> None:
        """Drop all answers but these."""
        self._cache.reorder_cache(rows)
        self._mask_BL = self._mask_BL[rows]
