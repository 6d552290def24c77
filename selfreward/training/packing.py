"""Texts in one row without padding, in which what several of them begin with is there once.

Of pairs: prompt, chosen and rejected, then the next pair's. A pair's prompt is computed once; positions restart for the
rejected, which sees the prompt and itself; the chosen sees the prompt and itself; no pair sees another. Of texts that
begin alike, as a judge's prompts do with their rubric: the pieces of their prefix tree, each of which sees what comes
before it in its own texts. There is no mask of the whole row: attention goes run by run, each of them causal, so what a
mask would hide is not computed at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from selfreward.model.attention import KERNELS, Kernel
from selfreward.model.prefix_tree import prefix_tree

PACKED_ATTENTION = {name: f"packed_{name}" for name in KERNELS}
"""Of each of transformers' kernels, the name under which it attends to packed texts."""


@dataclass(frozen=True)
class Packing:
    """Where things are in a row of N tokens.

    `sizes` are the tokens of the row's pieces. `runs` make up the row too, each of one or more pieces that attend at
    once: its tokens, and the places of the pieces that it sees, its own last. `positions` (N) are the tokens' positions
    in their own sequences. `sources` (T) are the places whose states predict a completion token.
    """

    sizes: list[int]
    runs: list[tuple[int, list[int]]]
    positions: Tensor
    sources: Tensor


def pack(lengths: Sequence[tuple[int, int, int]]) -> Packing:
    """The packing of pairs by their lengths, in tokens, of prompt, chosen and rejected.

    Its sources are first those of all chosen, then those of all rejected.
    """
    sizes = [size for pair in lengths for size in pair]
    starts = list(accumulate(sizes, initial=0))
    runs: list[tuple[int, list[int]]] = []
    chosen: list[Tensor] = []
    rejected: list[Tensor] = []
    for place, (p, c, r) in zip(range(0, len(sizes), 3), lengths, strict=True):
        runs += [(p + c, [place, place + 1]), (r, [place, place + 2])]
        _, prompt_end, chosen_end, end = starts[place : place + 4]
        chosen.append(torch.arange(prompt_end - 1, chosen_end - 1))
        # The last prompt token predicts the first token of both; each other token is predicted by the one before it.
        places = torch.arange(chosen_end - 1, end - 1)
        places[:1] = prompt_end - 1
        rejected.append(places)
    positions = [part for p, c, r in lengths for part in (torch.arange(p + c), torch.arange(p, p + r))]
    return Packing(sizes, runs, torch.cat(positions), torch.cat(chosen + rejected))


def pack_texts(texts: Sequence[list[int]], completions: Sequence[int]) -> tuple[Packing, Tensor]:
    """The packing of texts whose last so many tokens are completions, and the tokens (N) of the row.

    Its sources are those of the texts in their order. Each text has one token at least before its completion.
    """
    nodes = prefix_tree(texts)
    sizes = [len(node.token_ids) for node in nodes]
    starts = list(accumulate(sizes, initial=0))
    chains: list[list[int]] = []  # of each node, the places of what comes before it and its own
    for place, node in enumerate(nodes):
        chains.append([*(chains[node.parent] if node.parent is not None else []), place])
    chain_of = {node.row: chain for node, chain in zip(nodes, chains, strict=True)}
    sources: list[Tensor] = []
    for row, completion in enumerate(completions):
        places = torch.cat([torch.arange(starts[piece], starts[piece + 1]) for piece in chain_of[row]])
        sources.append(places[-completion - 1 : -1])
    positions = torch.cat(
        [torch.arange(node.start, node.start + size) for node, size in zip(nodes, sizes, strict=True)]
    )
    packing = Packing(sizes, list(zip(sizes, chains, strict=True)), positions, torch.cat(sources))
    return packing, torch.tensor([token for node in nodes for token in node.token_ids])


def packed_attention(kernel: Kernel) -> Any:
    """transformers' attention interface over a row of packed texts, each run through `kernel`."""

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
        assert packing is not None, "this attention is for packed texts alone"
        # Split once, so that the backward pass joins the parts: of a slice it would make a row of zeros to add up.
        queries = query_1AND[0].split([tokens for tokens, _ in packing.runs], 1)
        keys, values = key_1KND[0].split(packing.sizes, 1), value_1KND[0].split(packing.sizes, 1)
        outputs: list[Tensor] = []
        for query_AND, (_, seen) in zip(queries, packing.runs, strict=True):
            key_KMD, value_KME = (torch.cat([parts[piece] for piece in seen], 1) for parts in (keys, values))
            outputs.append(kernel(query_AND, key_KMD, value_KME, scaling))
        return torch.cat(outputs, 1).transpose(0, 1)[None].contiguous(), None

    return attend


for name, kernel in KERNELS.items():
    ALL_ATTENTION_FUNCTIONS.register(PACKED_ATTENTION[name], packed_attention(kernel))
