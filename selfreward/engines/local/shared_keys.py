"""Keys and values that texts share, held once: of a prefix tree while it is computed, and of answers while they grow.

The model runs without a cache of its own. Its attention is exchanged for one that hands each layer's queries, keys and
values to a `Keys`, which knows what each query may see.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from selfreward.engines.local.passes import Gathering, Pass, Piece, pieces_of
from selfreward.engines.local.ragged_keys import RaggedAnswerKeys, RaggedTreeKeys
from selfreward.model.attention import KERNELS, has_ragged

SHARED_KEYS = "shared_keys"
"""The name under which transformers knows this attention."""

_ROOM = 64
"""Tokens by which the room for an answer grows."""


class Keys(Protocol):
    """What the attention of a forward pass sees."""

    def attend(self, layer: int, query_BAND: Tensor, key_BKND: Tensor, value_BKNE: Tensor, scale: float) -> Tensor:
        """The outputs (B, N, A, E) of a layer's queries."""
        ...


def _attend(
    module: Any,
    query_BAND: Tensor,
    key_BKND: Tensor,
    value_BKNE: Tensor,
    attention_mask: None,
    scaling: float | None = None,
    keys: Keys | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    assert keys is not None, "this attention is for shared keys alone"
    scale = query_BAND.shape[-1] ** -0.5 if scaling is None else scaling
    return keys.attend(module.layer_idx, query_BAND, key_BKND, value_BKNE, scale), None


ALL_ATTENTION_FUNCTIONS.register(SHARED_KEYS, _attend)


class TreeKeys:
    """Parts of texts in one row, one after the other, each of which sees itself and what came before it.

    Args:
        lengths: tokens of each part.
        before: of each part what came before it, in pieces.
        kernel: a key of `KERNELS`.
        keep: whether others will come after these parts.

    `made` has the parts themselves. Their keys and values are there once the model has run, if they are kept.
    """

    def __init__(
        self, lengths: Sequence[int], before: Sequence[Sequence[Piece]], kernel: str, *, keep: bool = True
    ) -> None:
        self._keep = keep
        self._lengths = list(lengths)
        self._before = before
        self._kernel = KERNELS[kernel]
        self._pass = Pass(sum(lengths))
        self._ragged: RaggedTreeKeys | None = None
        self.made = pieces_of(self._pass, lengths)

    def attend(self, layer: int, query_BAND: Tensor, key_BKND: Tensor, value_BKNE: Tensor, scale: float) -> Tensor:
        """All parts at once where the device has a kernel for that, else part by part."""
        if not self._keep:
            self._pass.layers.clear()
        self._pass.layers[layer] = (key_BKND[0], value_BKNE[0])
        if has_ragged(key_BKND, value_BKNE):
            self._ragged = self._ragged or RaggedTreeKeys(self._before, self.made, query_BAND.device)
            return self._ragged.attend(layer, query_BAND[0], scale)[None]
        outputs: list[Tensor] = []
        for query_AND, before, own in zip(query_BAND[0].split(self._lengths, 1), self._before, self.made, strict=True):
            keys, values = zip(*(piece.at(layer) for piece in (*before, own)), strict=True)
            outputs.append(self._kernel(query_AND, torch.cat(keys, 1), torch.cat(values, 1), scale))
        return torch.cat(outputs, 1).transpose(0, 1)[None].contiguous()


def answer_keys(
    common: Sequence[Piece],
    prompts: Sequence[Sequence[Piece]],
    answers: int,
    steps: int,
    device: torch.device,
    query_heads: int,
) -> AnswerKeys | RaggedAnswerKeys:
    """`AnswerKeys`, or what does the same faster where the device has a kernel for it."""
    key, value = prompts[0][0].at(0)
    if has_ragged(key, value):
        return RaggedAnswerKeys(common, prompts, answers, steps, device, query_heads // len(key))
    return AnswerKeys(common, prompts, answers, steps, device)


class AnswerKeys:
    """Answers that grow by a token each step, side by side: what they see is held in three pieces.

    What all prompts begin with is there once, the rest of a prompt once for its answers, and an answer's own tokens
    once, as in Hydragen (arXiv 2402.05099). The scores of the three are put side by side under one softmax. There is
    room for some more tokens of an answer than it has: a CPU's product with a part of that room would copy it first, at
    every step.

    Args:
        common: what all prompts begin with, in pieces.
        prompts: of each prompt the rest, in pieces.
        answers: answers of each prompt.
        steps: the most tokens that an answer will hand in.
        device: of all of these.
    """

    def __init__(
        self,
        common: Sequence[Piece],
        prompts: Sequence[Sequence[Piece]],
        answers: int,
        steps: int,
        device: torch.device,
    ) -> None:
        gathering = Gathering(prompts, device)
        layers = sorted(prompts[0][0].of.layers)
        self._common = [_joined([piece.at(layer) for piece in common]) for layer in layers] if common else []
        self._prompts = [_by_row(*gathering.at(layer, gathering.index_RM)) for layer in layers]
        lengths_P = torch.tensor([sum(piece.length for piece in pieces) for pieces in prompts], device=device)
        beyond_PL = torch.arange(gathering.index_RM.shape[1], device=device) >= lengths_P[:, None]
        self._beyond_BL = beyond_PL.repeat_interleave(answers, 0)
        self._answers = answers
        self._slots_B: Tensor | None = None  # of each row its place among these prompts' answers, if some are gone
        self._row_S = torch.empty(0)  # of each such place its row, or any row where it is gone
        self._own = [
            tuple(t.new_empty(len(self._beyond_BL), t.shape[1], 0, t.shape[3]) for t in pair) for pair in self._prompts
        ]
        self._steps = steps
        self._taken = 0
        self._place_1 = torch.zeros(1, dtype=torch.long, device=device)  # of the next token in the room for answers
        self._hidden_B11M = torch.empty(0)  # what a step's queries don't see; the first layer says it for all

    def attend(self, layer: int, query_BAND: Tensor, key_BKND: Tensor, value_BKNE: Tensor, scale: float) -> Tensor:
        """One query a row."""
        rows, heads = key_BKND.shape[:2]
        query_BKGD = query_BAND.reshape(rows, heads, -1, query_BAND.shape[-1])
        own_key, own_value = (
            room.index_copy_(2, self._place_1, new)
            for room, new in zip(self._own[layer], (key_BKND, value_BKNE), strict=True)
        )
        prompt_key, prompt_value = self._prompts[layer]
        scores = [self._of_prompts(query_BKGD, prompt_key.mT), query_BKGD @ own_key.mT]
        if self._common:
            scores.insert(0, _of_common(query_BKGD, self._common[layer][0].mT))
        sizes = [part.shape[-1] for part in scores]
        if layer == 0:
            self._hidden_B11M = self._hidden(sizes)
        scores_BKGM = torch.cat(scores, -1).float().mul_(scale).masked_fill_(self._hidden_B11M, float("-inf"))
        weights = scores_BKGM.softmax(-1).to(value_BKNE.dtype).split(sizes, -1)
        output_BKGE = weights[-1] @ own_value + self._of_prompts(weights[-2], prompt_value)
        if self._common:
            output_BKGE += _of_common(weights[0], self._common[layer][1])
        return output_BKGE.reshape(rows, 1, -1, output_BKGE.shape[-1])

    @property
    def device(self) -> torch.device:
        """Of all keys and values."""
        return self._place_1.device

    def make_room(self) -> bool:
        """Before each step: see that there is room for its tokens. Whether more had to be made."""
        self._taken += 1
        room = self._own[0][0].shape[2]
        if self._taken <= room:
            return False
        more = min(_ROOM, self._steps - room)
        for layer, (key, value) in enumerate(self._own):
            self._own[layer] = (_longer(key, more), _longer(value, more))
        return True

    def advance(self) -> None:
        """Say that all layers have had this step."""
        self._place_1 += 1

    def keep(self, rows: Tensor) -> None:
        """Drop all answers but these, and the prompts that have none left."""
        slots_B = torch.arange(len(self._beyond_BL), device=rows.device) if self._slots_B is None else self._slots_B
        slots_B = slots_B[rows]
        prompts_P, place_B = (slots_B // self._answers).unique(return_inverse=True)
        if len(prompts_P) < len(self._prompts[0][0]):
            self._prompts = [(key[prompts_P], value[prompts_P]) for key, value in self._prompts]
        slots_B = place_B * self._answers + slots_B % self._answers
        self._row_S = torch.zeros(len(prompts_P) * self._answers, dtype=torch.long, device=rows.device)
        self._row_S[slots_B] = torch.arange(len(slots_B), device=rows.device)
        self._slots_B = slots_B if len(slots_B) < len(self._row_S) else None
        self._beyond_BL = self._beyond_BL[rows]
        for layer, (key, value) in enumerate(self._own):
            self._own[layer] = (key[rows], value[rows])

    def _of_prompts(self, rows_BKGX: Tensor, keys_PKXY: Tensor) -> Tensor:
        """Each row times its prompt's matrix; the rows of a prompt share one product."""
        (prompts, heads, _, width), groups = keys_PKXY.shape, rows_BKGX.shape[2]
        grid = rows_BKGX if self._slots_B is None else rows_BKGX.index_select(0, self._row_S)
        together = grid.view(prompts, self._answers, heads, groups, -1).transpose(1, 2)
        product = together.reshape(prompts, heads, self._answers * groups, -1) @ keys_PKXY
        apart = product.view(prompts, heads, self._answers, groups, width).transpose(1, 2)
        apart = apart.reshape(-1, heads, groups, width)
        return apart if self._slots_B is None else apart.index_select(0, self._slots_B)

    def _hidden(self, sizes: Sequence[int]) -> Tensor:
        """What is not there, by row and place: prompts are filled up to the longest, and answers have room to grow."""
        *common, _, own = sizes
        beyond_L = torch.arange(own, device=self.device) > self._place_1
        hidden_BM = torch.cat([self._beyond_BL, beyond_L.expand(len(self._beyond_BL), -1)], 1)
        return torch.nn.functional.pad(hidden_BM, (sum(common), 0))[:, None, None]


def _of_common(rows_BKGX: Tensor, keys_KXY: Tensor) -> Tensor:
    """All rows times one matrix a head."""
    rows, heads, groups, _ = rows_BKGX.shape
    product = rows_BKGX.transpose(0, 1).reshape(heads, rows * groups, -1) @ keys_KXY
    return product.view(heads, rows, groups, -1).transpose(0, 1)


def _longer(tensor_BKLD: Tensor, more: int) -> Tensor:
    """With room for more. It holds zeros, for nothing at all times what is no number is no number."""
    return torch.nn.functional.pad(tensor_BKLD, (0, 0, 0, more))


def _joined(pieces: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    keys, values = zip(*pieces, strict=True)
    return torch.cat(keys, 1), torch.cat(values, 1)


def _by_row(key_KPLD: Tensor, value_KPLE: Tensor) -> tuple[Tensor, Tensor]:
    return key_KPLD.transpose(0, 1).contiguous(), value_KPLE.transpose(0, 1).contiguous()
