"""Decoding from weights in oneDNN's layout: the same numbers, and nothing left behind."""

from __future__ import annotations

from functools import partial
from typing import Any

import peft
import pytest
import torch
from torch import Tensor
from transformers import LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from selfreward.engines.local.blocked_linear import blocked, can_block
from selfreward.model.fused_lora import fuse_adapters
from selfreward.model.head import Head
from tests.adapters import randomise
from tests.unit.planning import tiny

STEP = torch.tensor([[5], [9], [44]])
TEXT = torch.arange(3, 27).view(2, 12)


def llama() -> Any:
    torch.manual_seed(0)
    return LlamaForCausalLM(tiny()).requires_grad_(False).eval()


def qwen() -> Any:
    """A model whose queries, keys and values have biases, and whose other layers have none."""
    torch.manual_seed(0)
    shape: dict[str, Any] = tiny().to_diff_dict() | {"model_type": "qwen2"}
    model: Any = Qwen2ForCausalLM(Qwen2Config(**shape))
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    return model.requires_grad_(False).eval()


def with_adapter(model: Any, **others: Any) -> Any:
    settings: dict[str, Any] = {"r": 3, "lora_alpha": 6, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
    adapted = randomise(peft.get_peft_model(model, peft.LoraConfig(**settings | others))).eval()
    fuse_adapters(adapted)
    return adapted


@torch.inference_mode()
def logits(model: Any, ids: Tensor = STEP) -> Tensor:
    return model(input_ids=ids, use_cache=False).logits


def forwards(model: Any) -> dict[str, Any]:
    return {name: vars(module)["forward"] for name, module in model.named_modules() if "forward" in vars(module)}


MODELS = {
    "no adapter": llama,
    "biases": qwen,
    "an adapter": lambda: with_adapter(llama()),
    "an adapter and biases": lambda: with_adapter(qwen()),
    "on some layers": lambda: with_adapter(llama(), target_modules=["q_proj", "v_proj", "down_proj"]),
    "of unlike ranks and scales": lambda: with_adapter(
        llama(), rank_pattern={"k_proj": 5}, alpha_pattern={"up_proj": 1}
    ),
    "DoRA": lambda: with_adapter(llama(), use_dora=True),
}


@pytest.mark.parametrize("made", MODELS)
def test_a_step_gives_the_same(made: str) -> None:
    model = MODELS[made]()
    expected, before = logits(model), forwards(model)
    with blocked(model):
        changed = [forward for forward in forwards(model).values() if isinstance(forward, partial)]
        assert len(changed) == (0 if made == "DoRA" else 2 * 7)
        torch.testing.assert_close(logits(model), expected, rtol=1e-4, atol=1e-5)
    assert forwards(model) == before


def test_adapters_that_are_off_or_merged_give_the_same_too() -> None:
    model = with_adapter(llama())
    with model.disable_adapter():
        expected = logits(model)
        with blocked(model):
            torch.testing.assert_close(logits(model), expected, rtol=1e-4, atol=1e-5)
    model.merge_adapter()
    merged = logits(model)
    with blocked(model):
        torch.testing.assert_close(logits(model), merged, rtol=1e-4, atol=1e-5)


def test_a_longer_text_takes_the_layers_own_way() -> None:
    model = with_adapter(llama())
    expected = logits(model, TEXT)
    with blocked(model):
        assert torch.equal(logits(model, TEXT), expected)


def test_the_layers_are_as_before_also_after_an_error() -> None:
    model = llama()
    with pytest.raises(KeyError), blocked(model):
        raise KeyError
    assert not forwards(model)


class Crossed(torch.nn.Module):
    """Layers named as those that take one input, which here do not, and are asked in another order."""

    def __init__(self) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj = (torch.nn.Linear(8, size, bias=False) for size in (4, 6, 2))
        self.lm_head = torch.nn.Linear(8, 5, bias=False)
        self.device, self.dtype = torch.device("cpu"), torch.float32

    def get_output_embeddings(self) -> torch.nn.Linear:
        return self.lm_head

    def forward(self, x: Tensor, other: Tensor) -> list[Tensor]:
        return [self.v_proj(x), self.k_proj(other), self.q_proj(x), self.k_proj(x), self.v_proj(other)]


def test_layers_of_unlike_inputs_are_right_whatever_their_names_promise() -> None:
    layers, x, other = Crossed(), torch.randn(3, 1, 8), torch.randn(3, 1, 8)
    with torch.inference_mode():
        expected = layers(x, other)
        with blocked(layers):
            torch.testing.assert_close(layers(x, other), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logits_are_the_output_layer_s_own(dtype: torch.dtype) -> None:
    model, states_NH = llama().to(dtype), torch.randn(5, tiny().hidden_size).to(dtype)
    if not can_block(model):
        pytest.skip(f"this CPU has no blocked products in {dtype}")
    head = Head(model)
    with torch.inference_mode(), blocked(model) as product:
        torch.testing.assert_close(product(states_NH), states_NH @ head.weight_VH.T)
        logits_NV = torch.cat(list(head.logit_chunks(states_NH, product)))
        torch.testing.assert_close(logits_NV, torch.cat(list(head.logit_chunks(states_NH))))


def test_only_a_cpu_has_such_products() -> None:
    assert can_block(llama())
    assert not can_block(llama().to("meta"))
    assert not can_block(llama().to(torch.float16))
