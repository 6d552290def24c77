"""The forward pass of training: trl asks for the log-probabilities of completions, and gets them with less work.

All of trl's losses are computed from the answer to one call, `model(..., labels=labels, fused_lm_head=True)`. It gives
the model each pair as two padded rows, prompt and chosen, prompt and rejected. What comes back here is what trl asked
for, exact to rounding, so its losses stay as they are.
"""

from __future__ import annotations

import types
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from trl.trainer.utils import FusedCausalLMOutput

from selfreward.config import SpeedConfig
from selfreward.model.attention import is_exchangeable
from selfreward.model.head import Head, mean_row, score_tokens, token_log_probs
from selfreward.model.patched import attention_of, patched
from selfreward.training.packing import PACKED_ATTENTION, Packing, pack


@contextmanager
def fast_forward(model: Any, speed: SpeedConfig) -> Iterator[None]:
    """Within it, `model` answers trl's `fused_lm_head` calls by the shorter way that `speed` asks for and it allows.

    Where the output layer does more than multiply, or experts are routed, trl's own forward stays: it is exact.
    """
    head = Head(model)
    if not (speed.completion_head and head.is_plain) or getattr(model.config, "output_router_logits", False):
        yield
        return
    shares = speed.share_prompt and can_pack(model)
    previous = model.forward
    mean_weight_H = mean_row(head.weight_VH)

    def forward(self: Any, *args: Any, fused_lm_head: bool = False, **kwargs: Any) -> Any:
        if not fused_lm_head:
            return previous(*args, **kwargs)
        states = _packed_states if shares else _row_states
        labels_BL = kwargs["labels"]
        states_TH = states(self, kwargs["input_ids"], kwargs["attention_mask"], labels_BL)
        return _answer(states_TH, head.weight_VH, mean_weight_H, labels_BL)

    # For as long as training goes on: a checkpointed layer is computed again in the backward pass.
    packs = attention_of(model, PACKED_ATTENTION[model.config._attn_implementation]) if shares else nullcontext()
    with packs, patched(model, types.MethodType(forward, model)):
        yield


def can_pack(model: Any) -> bool:
    """Whether texts can share a row: all layers attend to all that came before, through an exchangeable kernel."""
    return model.config._attn_implementation in PACKED_ATTENTION and is_exchangeable(model)


def packed_states(model: Any, packing: Packing, ids_N: Tensor) -> Tensor:
    """The states (T, hidden) that predict completion tokens, in the order of the packing's sources."""
    output = model.base_model(
        input_ids=ids_N[None], position_ids=packing.positions.to(ids_N.device)[None], use_cache=False, packing=packing
    )
    return output.last_hidden_state[0, packing.sources.to(ids_N.device)]


def _packed_states(model: Any, ids_BL: Tensor, mask_BL: Tensor, labels_BL: Tensor) -> Tensor:
    """From trl's padded rows, all chosen and then all rejected, to each pair once."""
    prompt_B = (labels_BL != -100).int().argmax(-1).tolist()
    length_B = mask_BL.sum(-1).tolist()
    pairs = len(ids_BL) // 2
    lengths = [(prompt_B[i], length_B[i] - prompt_B[i], length_B[pairs + i] - prompt_B[i]) for i in range(pairs)]
    parts = [
        part
        for i, (prompt, chosen, rejected) in enumerate(lengths)
        for part in (ids_BL[i, : prompt + chosen], ids_BL[pairs + i, prompt : prompt + rejected])
    ]
    return packed_states(model, pack(lengths), torch.cat(parts))


def _row_states(model: Any, ids_BL: Tensor, mask_BL: Tensor, labels_BL: Tensor) -> Tensor:
    """From trl's own rows; but only the states that predict a completion token are taken further."""
    output = model.base_model(input_ids=ids_BL, attention_mask=mask_BL, use_cache=False)
    return output.last_hidden_state[:, :-1][labels_BL[:, 1:] != -100]


def _answer(states_TH: Tensor, weight_VH: Tensor, mean_weight_H: Tensor, labels_BL: Tensor) -> FusedCausalLMOutput:
    """The scores of completion tokens where trl looks for them, and zeros elsewhere.

    Without a gradient (the reference) the log-probabilities are all that is asked for.
    """
    scored_BL = labels_BL[:, 1:] != -100
    target_T = labels_BL[:, 1:][scored_BL]

    def spread(values_T: Tensor) -> Tensor:
        return values_T.new_zeros(scored_BL.shape).masked_scatter(scored_BL, values_T)

    if not torch.is_grad_enabled():
        return FusedCausalLMOutput(log_probs=spread(token_log_probs(states_TH, weight_VH, target_T)))
    scores = score_tokens(states_TH, weight_VH, target_T, mean_weight_H)
    log_probs_BL = spread(scores.log_probs_T)
    return FusedCausalLMOutput(
        loss=-log_probs_BL.sum() / scored_BL.sum().clamp(min=1),
        log_probs=log_probs_BL,
        entropy=spread(scores.entropy_T),
        mean_logits=spread(scores.mean_logits_T),
        is_top1=spread(scores.is_top1_T),
        label_mask=scored_BL,
    )
