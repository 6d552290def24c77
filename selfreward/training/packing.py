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
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from selfreward.attention import KERNELS, Kernel

PACKED_ATTENTION = {name: f"packed_{name}" for name in KERNELS}
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


def packed_attention(kernel: Kernel) -> Any:
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
        # Split once, so that the backward pass joins the parts: of a slice it would make a row of zeros to add up.
        sizes = [size for pair in packing.bounds for size in (pair[1] - pair[0], pair[2] - pair[1], pair[3] - pair[2])]
        prompt_and_chosen = [size for pair in packing.bounds for size in (pair[2] - pair[0], pair[3] - pair[2])]
        queries = query_1AND[0].split(prompt_and_chosen, 1)
        keys, values = key_1KND[0].split(sizes, 1), value_1KND[0].split(sizes, 1)
        outputs: list[Tensor] = []
        for i in range(len(packing.bounds)):
            for answer in (1, 2) if sizes[3 * i + 2] else (1,):  # of a text alone nothing is rejected
                key_KMD, value_KME = (torch.cat([parts[3 * i], parts[3 * i + answer]], 1) for parts in (keys, values))
                outputs.append(kernel(queries[2 * i + answer - 1], key_KMD, value_KME, scaling))
        return torch.cat(outputs, 1).transpose(0, 1)[None].contiguous(), None

    return attend


for name, kernel in KERNELS.items():
    ALL_ATTENTION_FUNCTIONS.register(PACKED_ATTENTION[name], packed_attention(kernel))
