"""Models and settings whose memory is planned."""

from __future__ import annotations

from typing import Any

import pytest
from transformers.models.llama import LlamaConfig

from selfreward.config import RunConfig
from selfreward.memory.shapes import model_config
from tests.settings import override

LLAMA_8B = model_config("meta-llama/Meta-Llama-3-8B-Instruct", None)
LLAMA_70B = model_config("meta-llama/Meta-Llama-3-70B-Instruct", None)

slow = pytest.mark.slow


def tiny(**changes: Any) -> LlamaConfig:
    shape: dict[str, Any] = {"vocab_size": 600, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True}
    return LlamaConfig(**shape | heads | changes)


def short(**overrides: Any) -> RunConfig:
    """Settings for short texts: pairs of 40, 12 and 12 tokens, four in a step. `a__b=c` sets `a.b`."""
    lengths = {"sampling__max_prompt_tokens": 40, "sampling__max_new_tokens": 12, "evaluation__max_new_tokens": 12}
    return default(**{"model__dtype": "float32", "train__max_length": 52, **lengths, **overrides})


def default(**overrides: Any) -> RunConfig:
    cfg = RunConfig()
    cfg.model.name, cfg.prompts.kind = "somewhere", "seed_pool"
    for key, value in overrides.items():
        override(cfg, key.replace("__", "."), value)
    return cfg
