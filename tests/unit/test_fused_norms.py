"""Norms by one kernel are the model's own, and only those that can be are computed so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from selfreward.engines.local.fused_norms import FusedNorms


class OffsetRMSNorm(LlamaRMSNorm):
    """As in Gemma: the weight is what is added to one."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return super().forward(hidden_states) / self.weight * (1 + self.weight)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_they_are_the_models_own_and_back_afterwards(tiny_model: Path, dtype: torch.dtype) -> None:
    model: Any = LlamaForCausalLM.from_pretrained(tiny_model, dtype=dtype)
    norms = [module for module in model.modules() if isinstance(module, LlamaRMSNorm)]
    torch.manual_seed(0)
    inputs = [torch.randn(5, 32).to(dtype) for _ in norms]
    with torch.inference_mode():
        own = [norm(x) for norm, x in zip(norms, inputs, strict=True)]
        with FusedNorms(model).ready():
            assert all("forward" in vars(norm) for norm in norms)
            fused = [norm(x) for norm, x in zip(norms, inputs, strict=True)]
    torch.testing.assert_close(fused, own)
    assert not any("forward" in vars(norm) for norm in norms)


def test_a_norm_that_does_something_else_keeps_its_own() -> None:
    plain, other = LlamaRMSNorm(32), OffsetRMSNorm(32)
    with FusedNorms(torch.nn.ModuleList([plain, other])).ready():
        assert "forward" in vars(plain)
        assert "forward" not in vars(other)
