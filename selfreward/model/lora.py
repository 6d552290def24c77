"""An adapter in peft's form: its settings, its files, and its layers in a model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Any

import peft
import torch
from peft.utils import set_peft_model_state_dict
from safetensors.torch import load_file, save
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from selfreward.config import LoraConfig, listed
from selfreward.errors import ConfigError, ModelError
from selfreward.model.adapters import SETTINGS_FILE, WEIGHTS_FILE

TRAINED = "default"  # the name of an adapter's layers: trl trains no other


def fresh_adapter(lora: LoraConfig) -> peft.LoraConfig:
    """peft's form of the adapter that would be trained."""
    modules = listed(lora.target_modules)
    return peft.LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=modules[0] if modules == ["all-linear"] else modules,
        task_type="CAUSAL_LM",
    )


def check_targets(base: PreTrainedModel, lora: LoraConfig) -> None:
    """Raise `ConfigError` for a name that leads to no layer for an adapter, which peft would ignore beside others, or
    to that of one block alone: the memory plan takes blocks to be alike."""
    if (names := listed(lora.target_modules)) == ["all-linear"]:
        return
    if numbered := [name for name in names if any(part.isdecimal() for part in name.split(".")[:-1])]:
        remedy = f"{numbered[0]!r} is a layer of one block, and all blocks get the same; use {_last(numbered[0])}"
        raise ConfigError("train.lora.target_modules", lora.target_modules, remedy)
    kinds, head = (torch.nn.Linear, Conv1D, torch.nn.Embedding), base.get_output_embeddings()
    layers = [name for name, layer in base.named_modules() if isinstance(layer, kinds) and layer is not head]
    missing = [name for name in names if not any(f".{layer}".endswith(f".{name}") for layer in layers)]
    if missing or not names:
        known = ", ".join(sorted(set(map(_last, layers))))
        lacking = f"the model has no layer {' or '.join(map(repr, missing or ['']))} for an adapter"
        remedy = f"{lacking}; use all-linear alone, or some of {known}"
        raise ConfigError("train.lora.target_modules", lora.target_modules, remedy)


def save_adapter(model: peft.PeftModel, folder: Path) -> None:
    """Write the trained adapter so that equal weights give equal bytes, whatever machine or process wrote them.

    The base model's name is left out: it says where the base was found, not what it is.
    """
    weights = peft.get_peft_model_state_dict(model, adapter_name=TRAINED)
    tensors = {name: tensor.detach().to("cpu").contiguous() for name, tensor in weights.items()}
    (folder / WEIGHTS_FILE).write_bytes(save(tensors, metadata={"format": "pt"}))
    settings = json.dumps(as_saved(model.peft_config[TRAINED]), indent=2, sort_keys=True)
    (folder / SETTINGS_FILE).write_text(settings + "\n")


def read_settings(folder: Path) -> peft.LoraConfig:
    """An adapter's settings, from its files. Raises `ModelError` for an adapter that is no LoRA."""
    settings = peft.PeftConfig.from_pretrained(str(folder))
    if not isinstance(settings, peft.LoraConfig):
        raise ModelError(f"{folder} holds a {settings.peft_type} adapter: only LoRA is supported")
    settings.inference_mode = False
    return settings


def load_weights(model: peft.PeftModel, folder: Path) -> None:
    """Load an adapter's weights. Raises `ModelError` where they don't fit: of missing ones peft would only warn."""
    try:
        result: Any = set_peft_model_state_dict(model, load_file(folder / WEIGHTS_FILE), adapter_name=TRAINED)
    except RuntimeError as error:  # sizes that differ, one line each
        wrong = str(error).splitlines()[-1].strip()
        raise ModelError(f"{folder} does not fit the model ({wrong}): it was trained on another base") from error
    missing = [key for key in result.missing_keys if "lora_" in key and f".{TRAINED}." in key]
    if missing or result.unexpected_keys:
        wrong = (missing + list(result.unexpected_keys))[0]
        raise ModelError(f"{folder} does not fit the model ({wrong}): it was trained on another base")


def as_saved(settings: peft.PeftConfig) -> dict[str, Any]:
    """An adapter's settings as they stand on disk, without where its base model was found and what it is used for."""
    plain = {key: _plain(value) for key, value in settings.to_dict().items()}
    return plain | {"base_model_name_or_path": None, "inference_mode": True}


@contextmanager
def merged_into_weights(model: peft.PeftModel) -> Iterator[None]:
    """Fold an adapter into the weights for a while. They are put back from a copy: subtracting would leave rounding."""
    layers: list[Any] = [
        m for m in model.modules() if isinstance(m, peft.tuners.lora.LoraLayer) and TRAINED in m.lora_A
    ]
    saved = [layer.get_base_layer().weight.data.clone() for layer in layers]
    tuner: Any = model.base_model
    try:
        tuner.merge_adapter([TRAINED])
        yield
    finally:
        for layer, weight in zip(layers, saved, strict=True):
            layer.get_base_layer().weight.data.copy_(weight)
            layer.merged_adapters.clear()


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _plain(value: Any) -> Any:
    """A setting as JSON: sets are sorted, for their order changes from process to process."""
    if isinstance(value, set):
        return sorted(value)
    if isinstance(value, Enum):
        return value.value
    return value
