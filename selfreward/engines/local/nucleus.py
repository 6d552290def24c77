"""Exact nucleus sampling (Holtzman et al., arXiv 1904.09751) that need not sort the vocabulary.

A token is drawn by inverting the cumulative distribution of the sorted nucleus at one uniform number a row. The
nucleus is nearly always inside the few likeliest tokens; whether it is, is decided exactly against the mass of the
whole vocabulary, and only rows where it is not are looked at further, in the end sorted in full.
"""

from __future__ import annotations

import torch
from torch import Tensor

from selfreward.model.head import log_total

LIKELIEST = {"cpu": (64, 1024), "cuda": (1024,)}
"""Tokens looked at first, and then in rows whose nucleus has more. A GPU waits longer for the answer whether there are
such rows than it takes for some more tokens."""


def draw(logits_BV: Tensor, uniform_B: Tensor, temperature: float, top_p: float) -> tuple[Tensor, Tensor]:
    """One token a row, and its log-probability in nats under the untempered distribution.

    Args:
        logits_BV: float32 logits, rows by vocabulary.
        uniform_B: float64 numbers in [0, 1), one a row.
        temperature: 0 takes the likeliest token.
        top_p: the nucleus is the smallest set of likeliest tokens whose mass reaches this.
    """
    log_total_B = log_total(logits_BV)
    if temperature == 0:
        token_B = logits_BV.argmax(-1)
    else:
        token_B = _draw_tempered(logits_BV / temperature, uniform_B, top_p)
    return token_B, logits_BV.gather(-1, token_B[:, None])[:, 0] - log_total_B


def _draw_tempered(scaled_BV: Tensor, uniform_B: Tensor, top_p: float) -> Tensor:
    vocabulary = scaled_BV.shape[-1]
    token_B = torch.empty(len(scaled_BV), dtype=torch.long, device=scaled_BV.device)
    row_R = torch.arange(len(scaled_BV), device=scaled_BV.device)
    counts = LIKELIEST.get(scaled_BV.device.type, LIKELIEST["cpu"])
    scaled_RV, log_total_R, uniform_R = scaled_BV, log_total(scaled_BV), uniform_B
    for likeliest in (*(count for count in counts if count < vocabulary), vocabulary):
        drawn_R, decided_R = _invert(*scaled_RV.topk(likeliest), log_total_R, uniform_R, top_p, vocabulary)
        token_B[row_R] = drawn_R
        open_R = (~decided_R).nonzero()[:, 0]
        if not len(open_R):
            break
        row_R, scaled_RV, log_total_R, uniform_R = (t[open_R] for t in (row_R, scaled_RV, log_total_R, uniform_R))
    return token_B


def _invert(
    sorted_BK: Tensor, index_BK: Tensor, log_total_B: Tensor, uniform_B: Tensor, top_p: float, vocabulary: int
) -> tuple[Tensor, Tensor]:
    """The token at each row's uniform number, and whether the K likeliest tokens are enough to tell."""
    precise = torch.float32 if sorted_BK.device.type == "mps" else torch.float64  # MPS has no float64
    probability_BK = (sorted_BK - log_total_B[:, None]).to(precise).exp()
    cumulative_BK = probability_BK.cumsum(-1)
    if sorted_BK.shape[-1] == vocabulary:
        cumulative_BK /= cumulative_BK[:, -1:].clone()  # no token gets what rounding left over
    if top_p == 1:
        position_B = torch.searchsorted(cumulative_BK, uniform_B.to(cumulative_BK)[:, None], right=True)[:, 0]
        decided_B = position_B < cumulative_BK.shape[-1]
    else:
        reached_BK = cumulative_BK >= top_p
        decided_B = reached_BK.any(-1)
        last_B1 = reached_BK.int().argmax(-1, keepdim=True)
        mass_B1 = cumulative_BK.gather(-1, last_B1)
        drawn_B1 = torch.searchsorted(cumulative_BK, uniform_B.to(cumulative_BK)[:, None] * mass_B1, right=True)
        position_B = torch.minimum(drawn_B1, last_B1)[:, 0]
    position_B = torch.minimum(position_B, (probability_BK > 0).sum(-1) - 1)
    return index_BK.gather(-1, position_B[:, None])[:, 0], decided_B
