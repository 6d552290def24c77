"""Linear layers whose weights are laid out for decoding on a CPU.

A step of decoding is many short products. oneDNN computes them faster from weights in its own, blocked layout, and
layers that take the same input are computed as one. This takes a second copy of the weights. In float32 adapters are
folded into that copy, which rounds no more than adding their products would; else their first factors are rows of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import accumulate
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor

from selfreward.model.fused_lora import LinearParts, linear_parts
from selfreward.model.patched import patched

_SIBLINGS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Layers of one parent that take the same input in most models. Where one of them does not, it is still right."""

OutputProduct = Callable[[Tensor], Tensor]
"""From states (N, hidden) to their product with the output layer's matrix (N, vocabulary)."""

_ROWS = 64  # that the layout is meant for; it serves all others nearly as well


def can_block(model: Any) -> bool:
    """Whether this machine has such products of the model's type of number."""
    if model.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    return model.dtype == torch.float32 or (
        model.dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )


@contextmanager
def blocked(model: Any) -> Iterator[OutputProduct]:
    """Have steps of decoding computed this way, under the adapter that is switched on.

    Passes over more than one token a row, and layers under other adapters than plain LoRA, stay as they are. So does
    the output layer: its product is given, for whoever makes logits of states.
    """
    output_layer = model.get_output_embeddings()
    with ExitStack() as stack:
        for group in _groups(model, output_layer):
            product = _Product([parts for _, parts in group])
            for place, (layer, _) in enumerate(group):
                stack.enter_context(patched(layer, partial(_forward, layer.forward, product, place)))
        yield partial(_linear, weight=_blocked(output_layer.weight.detach()))


class _Product:
    """The outputs of layers that take the same input, adapters included, from two products."""

    def __init__(self, layers: Sequence[LinearParts]) -> None:
        dtype = layers[0].weight_OI.dtype
        folds = dtype == torch.float32
        weights = [_folded(layer) if folds else layer.weight_OI.detach() for layer in layers]
        self._ends = [0, *accumulate(map(len, weights))]
        firsts = [layer.factors[0].to(dtype) for layer in layers if layer.factors and not folds]
        rows_OI = torch.cat([*weights, *firsts])
        self._weight = _blocked(rows_OI)
        self._bias_O = _bias(layers, len(rows_OI)) if any(layer.bias_O is not None for layer in layers) else None
        self._seconds_RO = _seconds(layers).to(dtype).T if firsts else None
        self._input: Tensor | None = None
        self._output: Tensor | None = None

    def output(self, place: int, x_B1I: Tensor) -> Tensor:
        """Of the layer at this place. All are computed for the first of them, and kept until the last has asked."""
        output_B1O = self._output if x_B1I is self._input else None
        if output_B1O is None:
            output_B1O = self._computed(x_B1I)
        is_last = place == len(self._ends) - 2
        self._input, self._output = (None, None) if is_last else (x_B1I, output_B1O)
        return output_B1O[..., self._ends[place] : self._ends[place + 1]]

    def _computed(self, x_B1I: Tensor) -> Tensor:
        output_B1O = _linear(x_B1I, self._weight, self._bias_O)
        if self._seconds_RO is not None:
            output_BO, end = output_B1O.view(-1, output_B1O.shape[-1]), self._ends[-1]
            output_BO[:, :end].addmm_(output_BO[:, end:], self._seconds_RO)
        return output_B1O


def _folded(layer: LinearParts) -> Tensor:
    """A layer's weight with its adapter."""
    weight_OI = layer.weight_OI.detach()
    if layer.factors is None:
        return weight_OI
    a_RI, b_OR, scale = layer.factors
    return torch.addmm(weight_OI, b_OR.detach(), a_RI.detach(), alpha=scale)


def _blocked(weight_OI: Tensor) -> Tensor:
    return torch.ops.mkldnn._reorder_linear_weight(weight_OI, _ROWS)


def _linear(x: Tensor, weight: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """The product of any rows with a blocked weight."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias_O, "none", [], "")


def _bias(layers: Sequence[LinearParts], length: int) -> Tensor:
    """One bias for all, with zeros where a layer has none and for the adapters."""
    parts = [
        layer.weight_OI.new_zeros(len(layer.weight_OI)) if layer.bias_O is None else layer.bias_O for layer in layers
    ]
    whole_O = torch.cat(parts)
    return torch.nn.functional.pad(whole_O, (0, length - len(whole_O)))


def _seconds(layers: Sequence[LinearParts]) -> Tensor:
    """The second factors, scaled, in float32: each a block of its own, without columns for a layer without adapter."""
    blocks = [
        layer.factors[1] * layer.factors[2] if layer.factors else torch.empty(len(layer.weight_OI), 0)
        for layer in layers
    ]
    return torch.block_diag(*blocks)


def _forward(own: Callable[..., Tensor], product: _Product, place: int, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return product.output(place, x) if x.shape[-2] == 1 else own(x, *args, **kwargs)


def _groups(parent: Any, head: Any) -> Iterator[list[tuple[Any, LinearParts]]]:
    """The linear layers in a module with their parts, those together that take the same input."""
    children = {name: child for name, child in parent.named_children() if child is not head}
    linear = {name: (child, parts) for name, child in children.items() if (parts := linear_parts(child))}
    for names in _SIBLINGS:
        if all(name in linear for name in names):
            yield [linear.pop(name) for name in names]
    yield from ([layer] for layer in linear.values())
    for child in children.values():
        if not isinstance(child, BaseTunerLayer):  # nothing in an adapter's layer is a layer of its own
            yield from _groups(child, head)
