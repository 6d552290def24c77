"""Adapters computed by the shorter way: peft's own numbers, and peft's own way wherever it is not for them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import Tensor

from selfreward.config import LoraConfig
from selfreward.model.fused_lora import fuse_adapters
from selfreward.model.models import Models
from tests.adapters import randomise

IDS = torch.arange(3, 27).view(2, 12)
FUSED = "_LoraLinearBackward"


class Layers(torch.nn.Module):
    """Two linear layers, the second with a bias, and something between them."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(6, 10, bias=False)
        self.second = torch.nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(x)))


def with_adapter(dtype: torch.dtype = torch.float32, **others: Any) -> Any:
    """Layers with an adapter whose every number is random; the base is in `dtype`, the adapter in float32."""
    torch.manual_seed(0)
    settings: dict[str, Any] = {"r": 3, "lora_alpha": 6, "target_modules": ["first", "second"]}
    model: Any = peft.get_peft_model(Layers().to(dtype), peft.LoraConfig(**settings | others))
    return randomise(model)


def fused(model: Any) -> Any:
    """A copy of the model whose adapters are computed by the shorter way."""
    copied = copy.deepcopy(model)
    fuse_adapters(copied)
    return copied


def inputs(*shape: int) -> Tensor:
    return torch.randn(*shape, 6, generator=torch.Generator().manual_seed(1))


def way(model: Any, x: Tensor) -> bool:
    """Whether the last layer is computed by the shorter way."""
    graph: Any = model(x).grad_fn
    while graph is not None and type(graph).__name__ in (
        "ViewBackward0",
        "UnsafeViewBackward0",
        "ReshapeAliasBackward0",
    ):
        graph = graph.next_functions[0][0]
    return type(graph).__name__ == FUSED


def outcome(model: Any, x: Tensor) -> dict[str, Tensor]:
    """The output, and the gradients of the input and of every parameter that has one."""
    x = x.clone().requires_grad_()
    model.zero_grad()
    output = model(x)
    (output * torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)).sum().backward()
    assert x.grad is not None
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return {"output": output.detach(), "input": x.grad, **gradients}


def assert_as_peft(model: Any, x: Tensor) -> None:
    expected, found = outcome(model, x), outcome(fused(model), x)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert (found[name] - tensor).norm() <= 1e-6 * tensor.norm(), name


# The same numbers


@pytest.mark.parametrize("shape", [(5,), (2, 5), (1, 1), (2, 3, 4)])
def test_output_and_gradients_are_those_of_peft(shape: tuple[int, ...]) -> None:
    assert_as_peft(with_adapter(), inputs(*shape))
    assert way(fused(with_adapter()), inputs(*shape))


def test_an_input_that_is_not_contiguous_is_no_other_input() -> None:
    assert_as_peft(with_adapter(), inputs(3, 4).transpose(0, 1))


@pytest.mark.parametrize("others", [{"lora_alpha": 1}, {"r": 1}, {"use_rslora": True}], ids=str)
def test_the_adapter_is_scaled_as_by_peft(others: dict[str, Any]) -> None:
    assert_as_peft(with_adapter(**others), inputs(2, 5))


def test_a_whole_model_gives_the_same_with_the_same_gradients(tiny_model: Path) -> None:
    found: list[tuple[Tensor, dict[str, Tensor]]] = []
    for fused_adapters in (False, True):
        models = Models(tiny_model, "float32", "cpu", fused_adapters=fused_adapters)
        with models.trainable(None, LoraConfig(r=4, alpha=8), 0) as model:
            randomise(model)
            loss = model(input_ids=IDS, labels=IDS).loss
            loss.backward()
            found.append((loss.detach(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}))
    (expected, expected_gradients), (loss, gradients) = found
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-6)
    assert gradients.keys() == expected_gradients.keys()
    for name, gradient in expected_gradients.items():
        assert (gradients[name] - gradient).norm() <= 1e-5 * gradient.norm(), name


def test_in_bfloat16_only_rounding_is_added_and_the_adapters_gradients_are_float32() -> None:
    """The adapter is rounded to bfloat16 for each product, as under autocast: a few roundings of 2**-8."""
    model, x = with_adapter(torch.bfloat16), inputs(4, 32).bfloat16()
    exact = outcome(copy.deepcopy(model).float(), x.float())
    by_peft, found = outcome(model, x), outcome(fused(model), x)
    assert found.keys() == exact.keys()
    for name, tensor in exact.items():
        assert found[name].dtype == by_peft[name].dtype, name
        assert found[name].dtype == (torch.float32 if "lora_" in name else torch.bfloat16)
        assert (found[name].float() - tensor).norm() <= 5 * 2**-8 * tensor.norm(), name


def test_the_base_gets_no_gradient() -> None:
    model = fused(with_adapter())
    outcome(model, inputs(2, 5))
    parameters = dict(model.named_parameters())
    assert {name for name, p in parameters.items() if p.grad is not None} == {n for n in parameters if "lora_" in n}
    assert not any(p.requires_grad for name, p in parameters.items() if "lora_" not in name)


def test_an_input_that_wants_no_gradient_costs_none_and_changes_no_other() -> None:
    model = fused(with_adapter())
    x, expected = inputs(2, 5), outcome(model, inputs(2, 5))
    model.zero_grad()
    output = model(x)
    (output * torch.linspace(-1, 1, output.numel()).view_as(output)).sum().backward()
    assert x.grad is None
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(parameter.grad, expected[name])


# Switched


def test_with_its_adapter_off_a_layer_is_the_base_layer_to_the_last_bit() -> None:
    torch.manual_seed(0)
    base, x = Layers(), inputs(2, 5)
    expected = base(x)
    model = fused(with_adapter())
    assert not torch.allclose(model(x), expected)
    with model.disable_adapter():
        assert torch.equal(model(x), expected)
    assert not torch.allclose(model(x), expected)


def test_of_several_adapters_the_one_that_is_switched_on_counts() -> None:
    model = with_adapter()
    model.add_adapter("other", peft.LoraConfig(r=2, lora_alpha=2, target_modules=["first"]))
    randomise(model, seed=5)
    x, shorter = inputs(2, 5), fused(model)
    outputs: list[Tensor] = []
    for name in ("default", "other", "default"):
        model.set_adapter(name)
        shorter.set_adapter(name)
        torch.testing.assert_close(shorter(x), model(x), rtol=1e-6, atol=1e-6)
        outputs.append(shorter(x))
    assert torch.equal(outputs[0], outputs[2])
    assert not torch.allclose(outputs[0], outputs[1])


def test_an_adapter_added_later_is_computed_as_peft_does() -> None:
    model = with_adapter()
    shorter = fused(model)
    for each in (model, shorter):
        each.add_adapter("later", peft.LoraConfig(r=2, lora_alpha=2, target_modules=["first", "second"]))
        randomise(each, seed=5)
        each.set_adapter("later")
    torch.testing.assert_close(shorter(inputs(2, 5)), model(inputs(2, 5)), rtol=1e-6, atol=1e-6)


def test_a_merged_adapter_is_not_added_twice() -> None:
    model = fused(with_adapter())
    expected = model(inputs(2, 5))
    model.merge_adapter()
    torch.testing.assert_close(model(inputs(2, 5)), expected, rtol=1e-5, atol=1e-5)
    model.unmerge_adapter()
    torch.testing.assert_close(model(inputs(2, 5)), expected, rtol=1e-5, atol=1e-5)


# What keeps peft's own way


def _two_at_once(model: Any) -> None:
    model.add_adapter("other", peft.LoraConfig(r=2, lora_alpha=2, target_modules=["first", "second"]))
    randomise(model, seed=5)
    model.base_model.set_adapter(["default", "other"])


@pytest.mark.parametrize(
    ("others", "change"),
    [
        ({"lora_dropout": 0.5}, lambda model: model.train()),
        ({"use_dora": True}, lambda model: None),
        ({"lora_bias": True, "target_modules": ["second"]}, lambda model: None),
        ({}, _two_at_once),
    ],
    ids=["dropout in training", "DoRA", "a bias", "two adapters at once"],
)
def test_what_is_not_plain_is_computed_by_peft(others: dict[str, Any], change: Callable[[Any], Any]) -> None:
    model = with_adapter(**others)
    shorter = fused(model)
    for each in (model, shorter):
        change(each)
    assert not way(shorter, inputs(2, 5))
    outcomes: list[dict[str, Tensor]] = []
    for each in (model, shorter):
        torch.manual_seed(7)  # of the dropout
        outcomes.append(outcome(each, inputs(2, 5)))
    assert outcomes[0].keys() == outcomes[1].keys()
    assert all(torch.equal(tensor, outcomes[1][name]) for name, tensor in outcomes[0].items())


def test_dropout_is_for_training_alone() -> None:
    model = with_adapter(lora_dropout=0.5).eval()
    assert way(fused(model), inputs(2, 5))
    assert_as_peft(model, inputs(2, 5))


def test_layers_that_are_not_linear_are_left_alone() -> None:
    model: Any = torch.nn.Sequential(torch.nn.Embedding(20, 6), torch.nn.Linear(6, 4))
    adapted = randomise(peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["0", "1"])))
    x = torch.arange(8).view(2, 4)
    torch.testing.assert_close(fused(adapted)(x), adapted(x), rtol=1e-6, atol=1e-6)


def test_without_gradients_an_adapter_that_was_trained_on_or_switched_counts_as_it_is_now() -> None:
    model = with_adapter(torch.bfloat16)
    model.add_adapter("other", peft.LoraConfig(r=2, lora_alpha=2, target_modules=["first"]))
    shorter, x = fused(model), inputs(2, 5).bfloat16()

    def outputs() -> list[Tensor]:
        found: list[Tensor] = []
        for name in ("default", "other"):
            shorter.set_adapter(name)
            with torch.inference_mode():
                found.append(shorter(x).clone())
            assert torch.equal(found[-1], shorter(x))
        return found

    before = outputs()
    randomise(shorter, seed=7)
    after = outputs()
    assert not any(torch.equal(old, new) for old, new in zip(before, after, strict=True))
