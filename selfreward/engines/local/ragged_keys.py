"""What `shared_keys` does, where a GPU has a kernel for texts of unlike length: without padding or scores in memory."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from selfreward.engines.local.passes import Gathering, Piece
from selfreward.model.attention import Ends, ragged

_ROOM = 128
"""Tokens that there is room for in an answer at first. When it is full it is doubled: each time a captured step
must be captured again."""


class RaggedTreeKeys:
    """Parts of texts in one row, one after the other, each of which sees itself and what came before it.

    Args:
        before: of each part what came before it, in pieces.
        own: the parts, whose keys and values are there when their layer attends.
        device: of all of these.
    """

    def __init__(self, before: Sequence[Sequence[Piece]], own: Sequence[Piece], device: torch.device) -> None:
        rows = [[*pieces, part] for pieces, part in zip(before, own, strict=True)]
        self._gathering, self._index_M, self._keys = _packed(rows, device)
        self._queries = Ends.of([part.length for part in own], device)

    def attend(self, layer: int, query_AND: Tensor, scale: float) -> Tensor:
        """Outputs (N, A, D)."""
        key_MKD, value_MKD = _by_token(self._gathering.at(layer, self._index_M))
        return ragged(query_AND.transpose(0, 1), key_MKD, value_MKD, self._queries, self._keys, scale, causal=True)[0]


class RaggedAnswerKeys:
    """Answers that grow by a token each step, side by side. What they see is held in three pieces, as in `AnswerKeys`.

    Each piece is attended to by itself, and the three are put together by the totals of their softmaxes (Dao et al.,
    arXiv 2205.14135, section 3.1). The query heads of a key head are queries of their own here, so that its keys are
    read once for all of them: all of a row's queries see the same.

    Args:
        common: what all prompts begin with, in pieces.
        prompts: of each prompt the rest, in pieces.
        answers: answers of each prompt.
        steps: the most tokens that an answer will hand in.
        device: of all of these.
        groups: query heads that share a key head.
    """

    def __init__(
        self,
        common: Sequence[Piece],
        prompts: Sequence[Sequence[Piece]],
        answers: int,
        steps: int,
        device: torch.device,
        groups: int,
    ) -> None:
        self.device = device
        self._groups = groups
        layers = sorted(prompts[0][0].of.layers)
        given = [_packed([common], device)] if common else []
        given.append(_packed(prompts, device))
        self._given = [
            ([_by_token(gathering.at(layer, index_M)) for layer in layers], ends) for gathering, index_M, ends in given
        ]
        rows = len(prompts) * answers
        self._prompt_B = torch.arange(len(prompts), device=device).repeat_interleave(answers)
        self._queries = self._query_ends()
        self._own = [
            (key_MKD.new_zeros(rows, 0, *key_MKD.shape[1:]), value_MKD.new_zeros(rows, 0, *value_MKD.shape[1:]))
            for key_MKD, value_MKD in self._given[-1][0]
        ]
        self._lay_out(rows, 0)
        self._steps = steps
        self._taken = 0
        self._place_1 = torch.zeros(1, dtype=torch.long, device=device)  # of the next token in the room for answers
        self._used_B = torch.ones(rows, dtype=torch.int32, device=device)  # of an answer's tokens, with the next one

    def attend(self, layer: int, query_BAND: Tensor, key_BKND: Tensor, value_BKND: Tensor, scale: float) -> Tensor:
        """One query a row."""
        rows, heads = key_BKND.shape[:2]
        query_BKGD = query_BAND.reshape(rows, heads, self._groups, -1)
        query_NKD = query_BKGD.transpose(1, 2).flatten(0, 1)
        pieces = [
            ragged(query_NKD, *layers[layer], queries, keys, scale)
            for (layers, keys), queries in zip(self._given, self._queries, strict=True)
        ]
        key_BLKD, value_BLKD = (
            room.index_copy_(1, self._place_1, new.transpose(1, 2))
            for room, new in zip(self._own[layer], (key_BKND, value_BKND), strict=True)
        )
        own = (key_BLKD.flatten(0, 1), value_BLKD.flatten(0, 1))
        pieces.append(ragged(query_NKD, *own, self._own_queries, self._rooms, scale, used=self._used_B))
        outputs, totals = zip(*pieces, strict=True)
        share_XNK1 = torch.stack(totals).softmax(0).transpose(1, 2)[..., None]
        output_NKD = (torch.stack(outputs) * share_XNK1).sum(0).to(query_BAND.dtype)
        return output_NKD.view(rows, self._groups, heads, -1).transpose(1, 2).reshape(rows, 1, heads * self._groups, -1)

    def make_room(self) -> bool:
        """Before each step: see that there is room for its tokens. Whether more had to be made."""
        self._taken += 1
        rows, room = self._own[0][0].shape[:2]
        if self._taken <= room:
            return False
        more = min(max(room, _ROOM), self._steps - room)
        for layer, (key, value) in enumerate(self._own):
            self._own[layer] = (_longer(key, more), _longer(value, more))
        self._lay_out(rows, room + more)
        return True

    def advance(self) -> None:
        """Say that all layers have had this step."""
        self._place_1 += 1
        self._used_B += 1

    def keep(self, rows: Tensor) -> None:
        """Drop all answers but these, which are in their order. What prompts there were stays."""
        self._prompt_B, self._used_B = self._prompt_B[rows], self._used_B[rows]
        self._queries = self._query_ends()
        for layer, (key, value) in enumerate(self._own):
            self._own[layer] = (key[rows], value[rows])
        self._lay_out(len(rows), self._own[0][0].shape[1])

    def _query_ends(self) -> list[Ends]:
        """Of each piece the queries that see it: all rows as one, and those of each prompt."""
        counts = torch.bincount(self._prompt_B, minlength=len(self._given[-1][1].ends) - 1).tolist()
        seen = [*([len(self._prompt_B)] for _ in self._given[1:]), counts]
        # Where the longest is 1 the kernel takes it that each text has one query, and some may have none.
        return [Ends.of([self._groups * n for n in queries], self.device, least=2) for queries in seen]

    def _lay_out(self, rows: int, room: int) -> None:
        self._own_queries = Ends.of([self._groups] * rows, self.device, least=2)
        self._rooms = Ends.of([room] * rows, self.device)


def _packed(rows: Sequence[Sequence[Piece]], device: torch.device) -> tuple[Gathering, Tensor, Ends]:
    """What gathers these rows one after the other, without padding, by which index, and where they end."""
    lengths = [sum(piece.length for piece in row) for row in rows]
    gathering = Gathering(rows, device)
    lengths_R1 = torch.tensor(lengths, device=device)[:, None]
    places_M = torch.arange(max(lengths), device=device)
    return gathering, gathering.index_RM[places_M < lengths_R1], Ends.of(lengths, device)


def _by_token(pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Keys and values (K, M, D) as (M, K, D)."""
    return pair[0].transpose(0, 1), pair[1].transpose(0, 1)


def _longer(tensor_BLKD: Tensor, more: int) -> Tensor:
    return torch.nn.functional.pad(tensor_BLKD, (0, 0, 0, 0, 0, more))
