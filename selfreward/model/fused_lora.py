"""LoRA layers computed in the base model's dtype and without needless copies.

peft computes an adapter in float32 and so casts each layer's input and output there and back, and autograd keeps the
casts. Here the adapter's float32 weights are rounded to the base model's dtype for each product, as under autocast, and
only the input and its low-rank image are kept. In float32 nothing is rounded.
"""

from __future__ import annotations

import types
from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.lora import Linear
from torch import Tensor


def fuse_adapters(model: torch.nn.Module) -> None:
    """Have the LoRA layers of `model` computed this way, under whichever adapter is switched on.

    Adapters with dropout in training, DoRA or a bias, several at once, and quantised layers keep peft's forward.
    """
    for layer in model.modules():
        if isinstance(layer, Linear) and type(layer.get_base_layer()) is torch.nn.Linear:
            layer.forward = types.MethodType(_forward(layer.forward), layer)


def _forward(peft_forward: Any) -> Any:
    def forward(self: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        factors = _factors(self)
        if factors is None:
            return peft_forward(x, *args, **kwargs)
        base, (a_RI, b_OR, scale) = self.get_base_layer(), factors
        if torch.is_inference_mode_enabled():
            rounded = _rounded(self, a_RI, b_OR, x.dtype)
            return _product(x, base.weight, base.bias, *rounded, scale)[0]
        return _LoraLinear.apply(x, base.weight, base.bias, a_RI, b_OR, scale)

    return forward


@dataclass(frozen=True)
class LinearParts:
    """What a linear layer computes with: its weight and bias, and `scale` times B A of the adapter that is on."""

    weight_OI: Tensor
    bias_O: Tensor | None
    factors: tuple[Tensor, Tensor, float] | None
    """A (rank, inputs), B (outputs, rank), and the scale."""


def linear_parts(layer: Any) -> LinearParts | None:
    """Of a linear layer, with or without LoRA; None for any other, and where its output is not just the sum of both."""
    if type(layer) is torch.nn.Linear:
        return LinearParts(layer.weight, layer.bias, None)
    if not isinstance(layer, Linear) or type(layer.get_base_layer()) is not torch.nn.Linear:
        return None
    base: Any = layer.get_base_layer()
    factors = _factors(layer)
    off = layer.disable_adapters != layer.merged
    return LinearParts(base.weight, base.bias, factors) if off or factors else None


def _factors(layer: Any) -> tuple[Tensor, Tensor, float] | None:
    """A, B and scale of the adapter that is on, where it is one and plain."""
    names = layer.active_adapters
    if layer.disable_adapters or layer.merged or len(names) != 1 or not _is_plain(layer, names[0]):
        return None
    return layer.lora_A[names[0]].weight, layer.lora_B[names[0]].weight, layer.scaling[names[0]]


def _is_plain(layer: Any, name: str) -> bool:
    return (
        name in layer.lora_A
        and name not in layer.lora_variant
        and not layer.lora_bias[name]
        and (not layer.training or isinstance(layer.lora_dropout[name], torch.nn.Identity))
    )


def _rounded(layer: Any, a_RI: Tensor, b_OR: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The adapter's weights in the model's dtype, kept until they change: a step of decoding is short."""
    versions = [0 if weight.is_inference() else weight._version for weight in (a_RI, b_OR)]
    known = vars(layer).get("_rounded_adapter")
    if known is None or known[0] is not a_RI or known[1] is not b_OR or known[2] != (versions, dtype):
        known = layer._rounded_adapter = (a_RI, b_OR, (versions, dtype), (a_RI.to(dtype), b_OR.to(dtype)))
    return known[3]


def _product(
    x: Tensor, weight_OI: Tensor, bias_O: Tensor | None, a_RI: Tensor, b_OR: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The layer's output, its input as a matrix, and that one's low-rank image."""
    x_NI = x.reshape(-1, x.shape[-1])
    low_NR = x_NI @ a_RI.T
    y_NO = torch.nn.functional.linear(x_NI, weight_OI, bias_O).addmm_(low_NR, b_OR.T, alpha=scale)
    return y_NO.view(*x.shape[:-1], -1), x_NI, low_NR


class _LoraLinear(torch.autograd.Function):
    """y = x W' + b + s (x A') B' (LoRA, arXiv 2106.09685, equation 3), with gradients for x, A and B alone."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight_OI: Tensor, bias_O: Tensor | None, a_RI: Tensor, b_OR: Tensor, scale: float
    ) -> Tensor:
        y, x_NI, low_NR = _product(x, weight_OI, bias_O, a_RI.to(x.dtype), b_OR.to(x.dtype), scale)
        ctx.save_for_backward(x_NI, low_NR, weight_OI, a_RI, b_OR)
        ctx.scale = scale
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x_NI, low_NR, weight_OI, a_RI, b_OR = ctx.saved_tensors
        (gradient,) = gradients
        y_NO = gradient.reshape(-1, gradient.shape[-1])
        low_gradient_NR = (y_NO @ b_OR.to(y_NO.dtype)).mul_(ctx.scale)
        x_gradient = None
        if ctx.needs_input_grad[0]:
            x_gradient = (y_NO @ weight_OI).addmm_(low_gradient_NR, a_RI.to(y_NO.dtype))
            x_gradient = x_gradient.view(*gradient.shape[:-1], -1)
        a_gradient_RI = (low_gradient_NR.T @ x_NI).to(a_RI.dtype)
        b_gradient_OR = (low_NR.T @ y_NO).T.to(b_OR.dtype).mul_(ctx.scale)  # this way round is faster on a CPU
        return x_gradient, None, None, a_gradient_RI, b_gradient_OR, None
