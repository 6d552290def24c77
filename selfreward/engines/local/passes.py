"""Keys and values of passes through a model, and how pieces of them are put together again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


@dataclass
class Pass:
    """One pass over a row of tokens: of each layer that it has gone through keys (K, N, D) and values (K, N, E)."""

    tokens: int
    layers: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)


@dataclass(frozen=True)
class Piece:
    """Some of a pass's tokens, one after the other."""

    of: Pass
    start: int
    length: int

    def at(self, layer: int) -> tuple[Tensor, Tensor]:
        """Its keys (K, L, D) and values (K, L, E) of a layer."""
        key, value = self.of.layers[layer]
        end = self.start + self.length
        return key[:, self.start : end], value[:, self.start : end]


def pieces_of(one: Pass, lengths: Sequence[int]) -> list[Piece]:
    """A pass cut into pieces of these lengths."""
    starts = accumulate(lengths, initial=0)
    return [Piece(one, start, length) for start, length in zip(starts, lengths, strict=False)]


class Gathering:
    """Rows of pieces, taken out of their passes by one index: on a GPU a copy for each piece would be far slower.

    `index_RM` has the places of each row's tokens among the passes' tokens, one pass after the other. Shorter rows are
    filled up with the first place.
    """

    def __init__(self, rows: Sequence[Sequence[Piece]], device: torch.device) -> None:
        passes = {id(piece.of): piece.of for row in rows for piece in row}
        starts = dict(zip(passes, accumulate((one.tokens for one in passes.values()), initial=0), strict=False))
        places = [torch.cat([_places(starts[id(p.of)] + p.start, p.length) for p in row]) for row in rows]
        self._passes = list(passes.values())
        self.index_RM = pad_sequence(places, batch_first=True).to(device)

    def at(self, layer: int, index: Tensor) -> tuple[Tensor, Tensor]:
        """Keys (K, *, D) and values (K, *, E) of a layer, where `index` (*) has some of the places."""
        keys, values = zip(*(one.layers[layer] for one in self._passes), strict=True)
        key_KND, value_KNE = (parts[0] if len(parts) == 1 else torch.cat(parts, 1) for parts in (keys, values))
        return key_KND[:, index], value_KNE[:, index]


def _places(start: int, length: int) -> Tensor:
    return torch.arange(start, start + length)
