"""Log-probabilities of given tokens under a frozen output layer, without ever holding the logits of all of them.

The gradient of log p(y | h) with respect to the hidden state h is W_y - sum_v p_v W_v. Both terms are known in the
forward pass, chunk by chunk, so it computes the gradient there, keeps it (positions by hidden size), and throws the
logits away; the backward pass is a product. No logits are recomputed. The output layer itself gets no gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_CHUNK_BYTES = 64 << 20  # of float32 logits


@dataclass(frozen=True)
class TokenScores:
    """Of each position: its target's log-probability, the entropy, the mean logit, and whether the target is likeliest.

    Only the log-probabilities carry a gradient.
    """

    log_probs_T: Tensor
    entropy_T: Tensor
    mean_logits_T: Tensor
    is_top1_T: Tensor


def score_tokens(hidden_TH: Tensor, weight_VH: Tensor, target_T: Tensor) -> TokenScores:
    """Scores of `target_T` where `hidden_TH` are the states that predict it and `weight_VH` is the output layer."""
    return TokenScores(*_ScoreTokens.apply(hidden_TH, weight_VH, target_T))


class _ScoreTokens(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_TH: Tensor, weight_VH: Tensor, target_T: Tensor) -> tuple[Tensor, ...]:
        wants_gradient = ctx.needs_input_grad[0]
        mean_weight_H = weight_VH.float().mean(0)
        log_probs, entropies, top1 = [], [], []
        gradient_TH = torch.empty_like(hidden_TH) if wants_gradient else None
        size = max(_CHUNK_BYTES // (4 * len(weight_VH)), 1)
        for start in range(0, len(hidden_TH), size):
            hidden_CH, target_C = hidden_TH[start : start + size], target_T[start : start + size]
            logits_CV = (hidden_CH @ weight_VH.T).float()
            target_logit_C = logits_CV.gather(-1, target_C[:, None])[:, 0]
            highest_C = logits_CV.amax(-1)
            log_total_C = logits_CV.logsumexp(-1)
            log_probs.append(target_logit_C - log_total_C)
            top1.append(target_logit_C == highest_C)
            probability_CV = logits_CV.sub_(log_total_C[:, None]).exp_()
            expected_CH = (probability_CV.to(weight_VH.dtype) @ weight_VH).float()
            # The mean logit under p is the hidden state times the mean row under p: no second pass over the vocabulary.
            entropies.append(log_total_C - (hidden_CH.float() * expected_CH).sum(-1))
            if gradient_TH is not None:
                gradient_TH[start : start + size] = (weight_VH[target_C].float() - expected_CH).to(gradient_TH.dtype)
        if gradient_TH is not None:
            ctx.save_for_backward(gradient_TH)
        mean_logits_T = hidden_TH.float() @ mean_weight_H
        outputs = (torch.cat(log_probs), torch.cat(entropies), mean_logits_T, torch.cat(top1))
        ctx.mark_non_differentiable(*outputs[1:])
        return outputs

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (gradient_TH,) = ctx.saved_tensors
        return (gradients[0][:, None] * gradient_TH.float()).to(gradient_TH.dtype), None, None
