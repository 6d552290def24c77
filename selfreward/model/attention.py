"""Attention over keys that several sequences share: the kernels, and the models that let theirs be exchanged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from selfreward.model.patched import attention_of

Kernel = Callable[[Tensor, Tensor, Tensor, float | None], Tensor]
"""From queries (A, N, D), keys (K, M, D), values (K, M, E) and a scale to outputs (A, N, E).

A query heads share K key heads. The queries are the last N of the M places, and see what came before and themselves.
"""


def is_exchangeable(model: Any) -> bool:
    """Whether the model's attention can be exchanged: all layers attend to all that came before, in the common way."""
    config = model.config.get_text_config()
    return (
        getattr(model, "_supports_attention_backend", False)
        and set(getattr(config, "layer_types", None) or ["full_attention"]) == {"full_attention"}
        and not getattr(model, "_is_stateful", False)
        and not getattr(config, "sliding_window", None)
        and not getattr(config, "attn_logit_softcapping", None)
        and not getattr(model, _ITS_OWN, False)
    )


def check_exchange(model: Any) -> None:
    """Try on a few tokens whether the model attends as `is_exchangeable` takes it to, which then says no if it doesn't:
    some layers have a mask of their own, or attend twice, and nothing in their settings tells."""
    if is_exchangeable(model) and not _attends_in_common(model):
        setattr(model, _ITS_OWN, True)


@torch.no_grad()
def _attends_in_common(model: Any) -> bool:
    ids_1N = (torch.arange(_TRIED_TOKENS, device=model.device) % model.config.get_text_config().vocab_size)[None]
    layers: list[int] = []
    own_NH = model.base_model(input_ids=ids_1N, use_cache=False).last_hidden_state[0].float()
    with attention_of(model, _TRIED):
        output = model.base_model(input_ids=ids_1N, use_cache=False, tried_layers=layers)
    exchanged_NH = output.last_hidden_state[0].float()
    apart_N = (exchanged_NH - own_NH).norm(dim=-1) / own_NH.norm(dim=-1).mean()  # a padding token's may be nothing
    once = len({*layers}) == len(layers)
    # The median, for rounding may send a token to another expert.
    return once and bool(apart_N.median() < _TRIED_TOLERANCES[model.dtype])


def _attend_tried(
    module: Any,
    query_BAND: Tensor,
    key_BKND: Tensor,
    value_BKNE: Tensor,
    attention_mask: Any,
    scaling: float | None = None,
    tried_layers: list[int] | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    if tried_layers is not None:
        tried_layers.append(module.layer_idx)
    return eager(query_BAND[0], key_BKND[0], value_BKNE[0], scaling).transpose(0, 1)[None], None


_ITS_OWN = "_attention_is_its_own"
_TRIED = "tried"
_TRIED_TOKENS = 16
_TRIED_TOLERANCES = {torch.float64: 1e-3, torch.float32: 1e-3, torch.float16: 0.02, torch.bfloat16: 0.05}
"""Of the states' mean norm. Two kernels that only round are a tenth of it apart."""
ALL_ATTENTION_FUNCTIONS.register(_TRIED, _attend_tried)


def eager(query_AND: Tensor, key_KMD: Tensor, value_KME: Tensor, scaling: float | None) -> Tensor:
    """Attention as matrix products."""
    scale = query_AND.shape[-1] ** -0.5 if scaling is None else scaling
    return _EagerAttention.apply(query_AND, key_KMD, value_KME, scale)


def sdpa(query_AND: Tensor, key_KMD: Tensor, value_KME: Tensor, scaling: float | None) -> Tensor:
    """Attention by PyTorch's fused kernels."""
    mask: Any = causal_lower_right(query_AND.shape[1], key_KMD.shape[1])
    return scaled_dot_product_attention(
        query_AND[None], key_KMD[None], value_KME[None], attn_mask=mask, scale=scaling, enable_gqa=True
    )[0]


@dataclass(frozen=True)
class Ends:
    """Where texts end in a row that holds one after the other: the tokens before each and in all, and the longest."""

    ends: Tensor
    longest: int

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device, *, least: int = 0) -> Ends:
        """Of texts of these lengths. The longest counts as `least` at least."""
        ends = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device)
        return cls(ends, max(least, *lengths))


def has_ragged(key: Tensor, value: Tensor) -> bool:
    """Whether `ragged` can compute with such keys and values (..., D): on NVIDIA's cards from Ampere on, in 16 bits."""
    return (
        key.is_cuda
        and key.dtype in (torch.bfloat16, torch.float16)
        and key.shape[-1] % 8 == 0
        and key.shape[-1] <= 256
        and key.shape[-1] == value.shape[-1]
        and _has_flash_attention(key.device)
    )


@cache
def _has_flash_attention(device: torch.device) -> bool:
    return (
        torch.version.cuda is not None
        and torch.backends.cuda.is_flash_attention_available()
        and torch.cuda.get_device_capability(device) >= (8, 0)
    )


def ragged(
    query_NAD: Tensor,
    key_MKD: Tensor,
    value_MKD: Tensor,
    queries: Ends,
    keys: Ends,
    scaling: float,
    *,
    causal: bool = False,
    used: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Attention of many texts of unlike length by one kernel (FlashAttention 2, arXiv 2307.08691).

    Returns outputs (N, A, D) and the logarithms (A, N) of the sums that softmax divides by. A text's queries see all of
    its keys, or of these the first `used` (texts); if `causal`, the queries are the last of its places, and see what
    came before and themselves.
    """
    output_NAD, total_AN, *_ = torch.ops.aten._flash_attention_forward(
        query_NAD,
        key_MKD,
        value_MKD,
        queries.ends,
        keys.ends,
        queries.longest,
        keys.longest,
        0.0,  # dropout
        causal,
        False,  # no copy of the weights
        scale=scaling,
        seqused_k=used,
    )
    return output_NAD, total_AN


KERNELS: dict[str, Kernel] = {"eager": eager, "sdpa": sdpa}
"""By transformers' name of the kernel that a model was loaded with."""


class _EagerAttention(torch.autograd.Function):
    """A key's heads share one product. Scores stay in the model's dtype: softmax computes in float32 by itself."""

    @staticmethod
    def forward(ctx: Any, query_AND: Tensor, key_GMD: Tensor, value_GME: Tensor, scale: float) -> Tensor:
        (heads, n, d), (groups, m, _) = query_AND.shape, key_GMD.shape
        query_GQD = (query_AND * scale).reshape(groups, -1, d)  # there are fewer queries than scores to scale
        scores_AND = (query_GQD @ key_GMD.transpose(1, 2)).view(heads, n, m)
        unseen_NN = torch.full((n, n), float("-inf"), dtype=scores_AND.dtype, device=scores_AND.device).triu_(1)
        scores_AND[:, :, m - n :].add_(unseen_NN)  # what came before is seen by all
        weights_GQM = scores_AND.softmax(-1).view(groups, -1, m)
        ctx.save_for_backward(query_GQD, key_GMD, value_GME, weights_GQM)
        ctx.scale = scale
        return (weights_GQM @ value_GME).view(heads, n, -1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        query_GQD, key_GMD, value_GME, weights_GQM = ctx.saved_tensors
        (heads, n, _), groups = gradients[0].shape, len(key_GMD)
        gradient_GQE = gradients[0].reshape(groups, -1, value_GME.shape[-1])
        value_gradient_GME = weights_GQM.transpose(1, 2) @ gradient_GQE
        through_GQM = gradient_GQE @ value_GME.transpose(1, 2)
        scores_GQM = torch.ops.aten._softmax_backward_data(through_GQM, weights_GQM, -1, weights_GQM.dtype)
        query_gradient_AND = (scores_GQM @ key_GMD).mul_(ctx.scale).view(heads, n, -1)
        return query_gradient_AND, scores_GQM.transpose(1, 2) @ query_GQD, value_gradient_GME, None
