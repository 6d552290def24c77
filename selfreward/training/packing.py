"""Pairs in one row without padding: prompt, chosen and rejected of a pair, then the next pair's.

A pair's prompt is computed once. Positions restart for the rejected, which sees the prompt and itself; the chosen sees
the prompt and itself; no pair sees another. There is no mask of the whole row: attention goes segment by segment, each
of them causal, so what a mask would hide is not computed at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

PACKED_ATTENTION = {"eager": "packed_eager", "sdpa": "packed_sdpa"}
"""Of each of transformers' kernels, the name under which it attends to packed pairs."""


@dataclass(frozen=True)
class Packing:
    """Where things are in a row of N tokens.

    `bounds` has for each pair the places where its prompt, chosen and rejected begin and where it ends. `positions` (N)
    are the tokens' positions in their own sequences. `sources` (T) are the places whose states predict a completion
    token: first those of all chosen, then those of all rejected.
    """

    bounds: list[tuple[int, int, int, int]]
    positions: Tensor
    sources: Tensor


def pack(lengths: Sequence[tuple[int, int, int]]) -> Packing:
    """The packing of pairs by their lengths, in tokens, of prompt, chosen and rejected."""
    starts = accumulate((sum(pair) for pair in lengths), initial=0)
    bounds = [(s, s + p, s + p + c, s + p + c + r) for s, (p, c, r) in zip(starts, lengths, strict=False)]
    positions = [part for p, c, r in lengths for part in (torch.arange(p + c), torch.arange(p, p + r))]
    chosen = [torch.arange(start - 1, end - 1) for _, start, end, _ in bounds]
    rejected: list[Tensor] = []
    for _, prompt_end, start, end in bounds:
        # The last prompt token predicts the first token of both; each other token is predicted by the one before it.
        places = torch.arange(start - 1, end - 1)
        places[:1] = prompt_end - 1
        rejected.append(places)
    return Packing(bounds, torch.cat(positions), torch.cat(chosen + rejected))


def packed_attention(kernel: Any) -> Any:
    """transformers' attention interface over a row of packed pairs, each segment through `kernel`."""

    def attend(
        module: Any,
        query_1AND: Tensor,
        key_1KND: Tensor,
        value_1KND: Tensor,
        attention_mask: None,
        scaling: float | None = None,
        packing: Packing | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, None]:
        assert packing is not None, "this attention is for packed pairs alone"
        query_AND, key_KND, value_KND = query_1AND[0], key_1KND[0], value_1KND[0]
        outputs: list[Tensor] = []
        for start, prompt_end, chosen_end, end in packing.bounds:
            first, last = slice(start, chosen_end), slice(chosen_end, end)
            outputs.append(kernel(query_AND[:, first], key_KND[:, first], value_KND[:, first], scaling))
            keys, values = (torch.cat([both[:, start:prompt_end], both[:, last]], 1) for both in (key_KND, value_KND))
            outputs.append(kernel(query_AND[:, last], keys, values, scaling))
        return torch.cat(outputs, 1).transpose(0, 1)[None].contiguous(), None

    return attend


def _eager(query_AND: Tensor, key_KMD: Tensor, value_KMD: Tensor, scaling: float | None) -> Tensor:
    """Attention as matrix products; the queries are the last N of the M places. A key's heads share one product."""
    (heads, n, d), (groups, m, _) = query_AND.shape, key_KMD.shape
    scale = d**-0.5 if scaling is None else scaling
    scores_ANM = (query_AND.reshape(groups, -1, d) @ key_KMD.transpose(1, 2)).view(heads, n, m) * scale
    unseen_NM = torch.ones(n, m, dtype=torch.bool, device=query_AND.device).triu_(m - n + 1)
    weights_ANM = scores_ANM.masked_fill_(unseen_NM, float("-inf")).softmax(-1, dtype=torch.float32)
    return (weights_ANM.to(value_KMD.dtype).view(groups, -1, m) @ value_KMD).view(heads, n, -1)


def _sdpa(query_AND: Tensor, key_KMD: Tensor, value_KMD: Tensor, scaling: float | None) -> Tensor:
    """Attention by PyTorch's fused kernels; the queries are the last N of the M places."""
    mask: Any = causal_lower_right(query_AND.shape[1], key_KMD.shape[1])
    return scaled_dot_product_attention(
        query_AND[None], key_KMD[None], value_KMD[None], attn_mask=mask, scale=scaling, enable_gqa=True
    )[0]


ALL_ATTENTION_FUNCTIONS.register(PACKED_ATTENTION["eager"], packed_attention(_eager))
ALL_ATTENTION_FUNCTIONS.register(PACKED_ATTENTION["sdpa"], packed_attention(_sdpa))
