"""Log-probabilities of given tokens under a frozen output layer, without ever holding the logits of all of them, as
Liger Kernel computes a cross-entropy (arXiv 2410.10989).

The gradient of log p(y | h) with respect to the hidden state h is W_y - sum_v p_v W_v. Both terms are known in the
forward pass, chunk by chunk, so it computes the gradient there, keeps it (positions by hidden size), and throws the
logits away; the backward pass is a product. No logits are recomputed. The output layer itself gets no gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from selfreward.errors import ModelError

CHUNK_BYTES = {"cpu": 32 << 20, "cuda": 256 << 20}
"""Bytes of float32 logits at a time: on a CPU what stays in its last-level cache; on a GPU rows enough to be worth a
reading of the weights."""

FEW_BYTES = 2 << 20
"""Bytes of float32 logits at a time, where they are passed over again and again: what stays in a core's own cache."""

SHARPENED = 16
_ALIKE = 0.02  # of the greatest logit: rounding in bfloat16 is a quarter of a percent


@dataclass(frozen=True)
class TokenScores:
    """Of each position: its target's log-probability, the entropy, the mean logit, and whether the target is likeliest.

    Only the log-probabilities carry a gradient.
    """

    log_probs_T: Tensor
    entropy_T: Tensor
    mean_logits_T: Tensor
    is_top1_T: Tensor


def score_tokens(hidden_TH: Tensor, weight_VH: Tensor, target_T: Tensor, mean_weight_H: Tensor) -> TokenScores:
    """Scores of `target_T` where `hidden_TH` are the states that predict it and `weight_VH` is the output layer.

    `mean_weight_H` is `mean_row(weight_VH)`, which stays the same as long as the layer does.
    """
    return TokenScores(*_ScoreTokens.apply(hidden_TH, weight_VH, target_T, mean_weight_H))


def mean_row(weight_VH: Tensor) -> Tensor:
    """The mean of an output layer's rows, in float32: with it a mean logit is one short product."""
    total_H = torch.zeros(weight_VH.shape[1], device=weight_VH.device)
    for rows_RH in weight_VH.split(4096):
        total_H += rows_RH.sum(0, dtype=torch.float32)
    return total_H / len(weight_VH)


class Head:
    """A model's output layer, which gives the logits of the next token from a hidden state.

    `weight_VH` is its matrix; `is_plain` says that there is nothing else to it: no bias, soft cap or scale.
    """

    def __init__(self, model: Any) -> None:
        config, layer = model.config.get_text_config(), model.get_output_embeddings()
        self.weight_VH: Tensor = layer.weight.detach()
        self._bias_V: Tensor | None = getattr(layer, "bias", None)
        self._cap: float | None = getattr(config, "final_logit_softcapping", None)
        times, by = (getattr(config, name, None) or 1 for name in ("logit_scale", "logits_scaling"))
        self._scale: float = times / by * (getattr(config, "lm_head_multiplier", None) or 1)
        self.is_plain = self._bias_V is None and not self._cap and self._scale == 1

    def logit_chunks(self, hidden_NH: Tensor, product: Callable[[Tensor], Tensor] | None = None) -> Iterator[Tensor]:
        """Float32 logits (C, vocabulary) of a few rows at a time: on a CPU so few that they stay in a core's cache
        while they are looked at, which takes longer than their product. `product` is a faster way to compute that."""
        rows = len(hidden_NH) if hidden_NH.device.type != "cpu" else _chunk_rows(self.weight_VH, FEW_BYTES)
        if not self.is_plain:
            yield from map(self.logits, hidden_NH.split(rows))
            return
        blunt_NV = product(hidden_NH) if product else hidden_NH @ self.weight_VH.T
        for blunt_CV, hidden_CH in zip(blunt_NV.split(rows), hidden_NH.split(rows), strict=True):
            yield sharpen_(blunt_CV.float(), hidden_CH, self.weight_VH, None)

    def logits(self, hidden_NH: Tensor, wanted_NK: Tensor | None = None) -> Tensor:
        """Float32 logits (N, vocabulary); the highest, and those of the tokens `wanted_NK`, as exact as in float32."""
        if self.is_plain:
            return sharpen_((hidden_NH @ self.weight_VH.T).float(), hidden_NH, self.weight_VH, wanted_NK)
        bias_V = None if self._bias_V is None else self._bias_V.float()
        logits_NV = torch.nn.functional.linear(hidden_NH.float(), self.weight_VH.float(), bias_V) * self._scale
        return self._cap * torch.tanh(logits_NV / self._cap) if self._cap else logits_NV

    def log_probs(self, hidden_NH: Tensor, wanted_NK: Tensor) -> Tensor:
        """Log-probabilities (N, K) of the tokens `wanted_NK`, chunk by chunk."""
        found: list[Tensor] = []
        for hidden_CH, wanted_CK in _chunks(hidden_NH, self.weight_VH, wanted_NK):
            logits_CV = self.logits(hidden_CH, wanted_CK)
            found.append(logits_CV.gather(-1, wanted_CK) - log_total(logits_CV)[:, None])
        return torch.cat(found)


@torch.no_grad()
def check_head(model: Any) -> None:
    """Hold the logits of one token against the model's own, for some models treat theirs in ways of their own.

    Raises `ModelError` where `Head` does not know that way, and where the model's type of number does not hold them.
    The model must be in evaluation mode.
    """
    head = Head(model)
    ids_11 = torch.zeros(1, 1, dtype=torch.long, device=head.weight_VH.device)
    hidden_1H = model.base_model(input_ids=ids_11, use_cache=False).last_hidden_state[0]
    own_1V = model(input_ids=ids_11, use_cache=False).logits[0].float()
    if not own_1V.isfinite().all():
        dtype = str(head.weight_VH.dtype).removeprefix("torch.")
        raise ModelError(f"{type(model).__name__} overflows in {dtype}: use model.dtype=bfloat16, or float32")
    if (head.logits(hidden_1H) - own_1V).abs().max() > _ALIKE * own_1V.abs().max():
        raise ModelError(f"{type(model).__name__} treats its logits in a way that is not known here: not supported")


def sharpen_(logits_CV: Tensor, hidden_CH: Tensor, weight_VH: Tensor, wanted_CK: Tensor | None = None) -> Tensor:
    """Replace the highest logits of each row, and those of `wanted_CK`, by what they are in float32, in place.

    A product in bfloat16 rounds a logit near 20 to an eighth, and the error of a log-probability is that of the few
    highest logits. Computing these again costs little and leaves almost none of it.
    """
    if weight_VH.dtype == torch.float32:
        return logits_CV
    ids_CK = logits_CV.topk(min(SHARPENED, logits_CV.shape[-1]), sorted=False).indices
    if wanted_CK is not None:
        ids_CK = torch.cat([ids_CK, wanted_CK], 1)
    exact_CK = (weight_VH[ids_CK].float() @ hidden_CH.float()[:, :, None])[:, :, 0]
    return logits_CV.scatter_(1, ids_CK, exact_CK)


def log_total(logits_CV: Tensor) -> Tensor:
    """The logarithm of each row's summed exponentials. By way of `log_softmax`, for which torch has the faster code."""
    return logits_CV.amax(-1) - logits_CV.log_softmax(-1).amax(-1)


@torch.no_grad()
def token_log_probs(hidden_TH: Tensor, weight_VH: Tensor, target_T: Tensor) -> Tensor:
    """The log-probabilities alone, equal to those of `score_tokens` to the last bit, at half the work."""
    buffer_CV = _buffer(hidden_TH, weight_VH)
    chunks = _chunks(hidden_TH, weight_VH, target_T)
    return torch.cat([_softmax(*chunk, weight_VH, buffer_CV).log_prob_C for chunk in chunks])


@dataclass(frozen=True)
class _Softmax:
    """A chunk's softmax before its division by the total: no pass over the vocabulary is spent on it."""

    weights_CV: Tensor
    total_C: Tensor
    log_total_C: Tensor
    log_prob_C: Tensor
    is_top1_C: Tensor


def _softmax(hidden_CH: Tensor, target_C: Tensor, weight_VH: Tensor, buffer_CV: Tensor) -> _Softmax:
    """The softmax of a chunk, in `buffer_CV`: the next chunk overwrites its weights."""
    logits_CV = buffer_CV[: len(hidden_CH)].copy_(hidden_CH @ weight_VH.T)
    sharpen_(logits_CV, hidden_CH, weight_VH, target_C[:, None])
    target_logit_C = logits_CV.gather(-1, target_C[:, None])[:, 0]
    highest_C = logits_CV.amax(-1)
    weights_CV = logits_CV.sub_(highest_C[:, None]).exp_()
    total_C = weights_CV.sum(-1)
    log_total_C = total_C.log() + highest_C
    return _Softmax(weights_CV, total_C, log_total_C, target_logit_C - log_total_C, target_logit_C == highest_C)


def _buffer(hidden_TH: Tensor, weight_VH: Tensor) -> Tensor:
    """Room for a chunk's logits, used again and again: fresh memory for each costs a CPU more than the sums in it."""
    return torch.empty(min(_chunk_rows(weight_VH), len(hidden_TH)), len(weight_VH), device=hidden_TH.device)


def _chunk_rows(weight_VH: Tensor, most_bytes: int | None = None) -> int:
    most_bytes = most_bytes or CHUNK_BYTES.get(weight_VH.device.type, CHUNK_BYTES["cpu"])
    return max(most_bytes // (4 * len(weight_VH)), 1)


def _chunks(hidden_TH: Tensor, weight_VH: Tensor, target_T: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    size = _chunk_rows(weight_VH)
    return zip(hidden_TH.split(size), target_T.split(size), strict=True)


class _ScoreTokens(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_TH: Tensor, weight_VH: Tensor, target_T: Tensor, mean_weight_H: Tensor
    ) -> tuple[Tensor, ...]:
        log_probs, entropies, top1, gradients = [], [], [], []
        buffer_CV = _buffer(hidden_TH, weight_VH)
        for hidden_CH, target_C in _chunks(hidden_TH, weight_VH, target_T):
            softmax = _softmax(hidden_CH, target_C, weight_VH, buffer_CV)
            weighted_CH = softmax.weights_CV.to(weight_VH.dtype) @ weight_VH
            expected_CH = weighted_CH.float() / softmax.total_C[:, None]
            log_probs.append(softmax.log_prob_C)
            top1.append(softmax.is_top1_C)
            # The mean logit under p is the hidden state times the mean row under p: no second pass over the vocabulary.
            entropies.append(softmax.log_total_C - (hidden_CH.float() * expected_CH).sum(-1))
            if ctx.needs_input_grad[0]:
                gradients.append((weight_VH[target_C].float() - expected_CH).to(hidden_TH.dtype))
        if gradients:
            ctx.save_for_backward(torch.cat(gradients))
        mean_logits_T = hidden_TH.float() @ mean_weight_H
        outputs = (torch.cat(log_probs), torch.cat(entropies), mean_logits_T, torch.cat(top1))
        ctx.mark_non_differentiable(*outputs[1:])
        return outputs

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (gradient_TH,) = ctx.saved_tensors
        return (gradients[0][:, None] * gradient_TH.float()).to(gradient_TH.dtype), None, None, None
