"""The base model, once in memory, and in it the layers of an adapter: one at a time, whichever is asked for."""

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
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D
from transformers.utils import logging

from selfreward.adapters import SETTINGS, WEIGHTS, Adapter
from selfreward.cap import release
from selfreward.chat import Chat
from selfreward.config import LoraConfig
from selfreward.errors import ConfigError, ModelError
from selfreward.fused_lora import fuse_adapters
from selfreward.head import check_head
from selfreward.pretrained import load

TRAINED = "default"  # the name of an adapter's layers: trl trains no other


class Models:
    """A base model loaded at first use, with one adapter in it. No second copy of the base is ever made.

    An adapter's layers stay in the model for the next one: where that has the same settings, only weights are loaded.
    """

    def __init__(
        self, folder: Path, dtype: str, device: str, *, quantization: str = "none", fused_adapters: bool = True
    ) -> None:
        logging.disable_progress_bar()
        self.folder = folder
        self.device = torch.device(pick_device(device))
        self.dtype: torch.dtype = getattr(torch, dtype)
        self.chat = Chat(folder)
        self._quantization = quantization
        self._fused = fused_adapters
        self._base: Any = None  # transformers' own types for what a model can do are too narrow
        self._peft: peft.PeftModel | None = None
        self._loaded: Adapter | None = None  # whose weights the adapter's layers hold

    @property
    def base(self) -> PreTrainedModel:
        """The base model. Where an adapter was loaded, its layers are inside it."""
        if self._base is None:
            self._base = self._load()
        return self._base

    def release(self) -> None:
        """Let go of the weights, base and adapter; they are loaded again when asked for."""
        self._base = self._peft = self._loaded = None
        release()

    @contextmanager
    def policy(self, adapter: Adapter | None, *, merged: bool = False) -> Iterator[torch.nn.Module]:
        """The model with `adapter` switched on, or with none. `merged` folds it into the weights."""
        if adapter is None:
            base = self.base
            if self._peft is None:
                yield base
            else:
                with self._peft.disable_adapter():
                    yield self._peft
            return
        model = self._with(adapter)
        if merged:
            with _merged(model):
                yield model
        else:
            yield model

    @contextmanager
    def trainable(self, start: Adapter | None, lora: LoraConfig, seed: int) -> Iterator[peft.PeftModel]:
        """The model with a trainable adapter: a copy of `start`, or a fresh one that changes nothing yet."""
        torch.manual_seed(seed)
        model = self._holding(start) if start else self._inject(fresh_adapter(lora))
        self._loaded = None  # what it trains to be is no adapter on disk yet
        model.set_adapter(TRAINED)
        try:
            yield model
        except BaseException:
            self._unload()  # whatever state its layers are in
            raise
        finally:
            for module in (self.base, model):
                vars(module).pop("forward", None)  # trl puts its own there, and accelerate
            if self.base.is_gradient_checkpointing:  # or it would be for all that is trained after this
                self.base.gradient_checkpointing_disable()
                # trl, transformers and the preflight each put one there, of which the last alone is known by name.
                self.base.get_input_embeddings()._forward_hooks.clear()
            self.base.zero_grad()
            self.base.requires_grad_(False)
            self.base.eval()

    @torch.inference_mode(mode=False)  # loaded while sampling, it could otherwise never be trained
    def _load(self) -> Any:
        model: Any = load(
            AutoModelForCausalLM,
            self.folder,
            dtype=self.dtype,
            attn_implementation=pick_attention(self.device),
            use_safetensors=True,
            **self._quantized(),
        )
        if self._quantization == "none":
            model = model.to(self.device)
        model.requires_grad_(False).eval()
        check_head(model)
        return model

    def _quantized(self) -> dict[str, Any]:
        """NF4 with doubly quantised constants (QLoRA, arXiv 2305.14314), computed in the model's dtype."""
        if self._quantization == "none":
            return {}
        if self.device.type != "cuda":
            remedy = f"bitsandbytes computes it on CUDA, and this run is on {self.device.type}; use none"
            raise ConfigError("train.quantization", self._quantization, remedy)
        try:
            import bitsandbytes  # noqa: F401  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            remedy = f"needs bitsandbytes ({error}); pip install -e '.[nf4]' adds it"
            raise ConfigError("train.quantization", self._quantization, remedy) from error
        settings = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=self.dtype,
        )
        return {"quantization_config": settings, "device_map": {"": self.device}}

    @torch.inference_mode(mode=False)  # as for the base: peft switches gradients on and off
    def _with(self, adapter: Adapter) -> peft.PeftModel:
        model = self._holding(adapter)
        model.set_adapter(TRAINED, inference_mode=True)
        model.eval()
        return model

    def _holding(self, adapter: Adapter) -> peft.PeftModel:
        """The model with this adapter's weights in its layers."""
        if self._peft and self._loaded == adapter:
            return self._peft
        settings, model = _read_settings(adapter.folder), self._peft
        if model is None or _as_saved(settings) != _as_saved(model.peft_config[TRAINED]):
            model = self._inject(settings)
        try:
            _load_weights(model, adapter.folder)
        except ModelError:
            self._unload()  # or it would be there, half loaded, when it is asked for again
            raise
        self._loaded = adapter
        return model

    def _inject(self, settings: peft.LoraConfig) -> peft.PeftModel:
        """New layers, in place of those that there are."""
        self._unload()
        model = peft.get_peft_model(self.base, settings, adapter_name=TRAINED)
        assert isinstance(model, peft.PeftModel)
        if self._fused:
            fuse_adapters(model)
        self._peft = model
        return model

    def _unload(self) -> None:
        if self._peft is not None:
            tuner: Any = self._peft.base_model
            self._base = tuner.unload()
            self._peft = self._loaded = None


def save_adapter(model: peft.PeftModel, folder: Path) -> None:
    """Write the trained adapter so that equal weights give equal bytes, whatever machine or process wrote them.

    The base model's name is left out: it says where the base was found, not what it is.
    """
    weights = peft.get_peft_model_state_dict(model, adapter_name=TRAINED)
    tensors = {name: tensor.detach().to("cpu").contiguous() for name, tensor in weights.items()}
    (folder / WEIGHTS).write_bytes(save(tensors, metadata={"format": "pt"}))
    settings = json.dumps(_as_saved(model.peft_config[TRAINED]), indent=2, sort_keys=True)
    (folder / SETTINGS).write_text(settings + "\n")


def pick_device(device: str) -> str:
    """`auto` is CUDA where there is one, else the CPU. Apple's MPS must be asked for: nobody has tried it yet.

    Raises `ConfigError` for one that PyTorch does not find here.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        return "cuda" if there["cuda"] else "cpu"
    if not there[device]:
        raise ConfigError(
            "engine.device", device, "PyTorch finds no such device here; use auto, or a PyTorch built for it"
        )
    return device


def pick_attention(device: torch.device) -> str:
    """Eager attention on a CPU, where it decodes and trains about 1.8 times as fast as sdpa in bfloat16; else sdpa."""
    return "eager" if device.type == "cpu" else "sdpa"


def fresh_adapter(lora: LoraConfig) -> peft.LoraConfig:
    """peft's form of the adapter that would be trained."""
    modules = _named(lora)
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
    if (names := _named(lora)) == ["all-linear"]:
        return
    if numbered := [name for name in names if any(part.isdecimal() for part in name.split(".")[:-1])]:
        remedy = f"{numbered[0]!r} is a layer of one block, and all blocks get the same; use {_last(numbered[0])}"
        raise ConfigError("train.lora.target_modules", lora.target_modules, remedy)
    kinds, head = (torch.nn.Linear, Conv1D, torch.nn.Embedding), base.get_output_embeddings()
    layers = [name for name, layer in base.named_modules() if isinstance(layer, kinds) and layer is not head]
    if missing := [name for name in names if not any(f".{layer}".endswith(f".{name}") for layer in layers)]:
        known = ", ".join(sorted(set(map(_last, layers))))
        lacking = f"the model has no layer {' or '.join(map(repr, missing))} for an adapter"
        remedy = f"{lacking}; use all-linear alone, or some of {known}"
        raise ConfigError("train.lora.target_modules", lora.target_modules, remedy)


def _named(lora: LoraConfig) -> list[str]:
    return [name.strip() for name in lora.target_modules.split(",")]


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _read_settings(folder: Path) -> peft.LoraConfig:
    settings = peft.PeftConfig.from_pretrained(str(folder))
    if not isinstance(settings, peft.LoraConfig):
        raise ModelError(f"{folder} holds a {settings.peft_type} adapter: only LoRA is supported")
    settings.inference_mode = False
    return settings


def _load_weights(model: peft.PeftModel, folder: Path) -> None:
    """Load an adapter's weights. peft only warns of missing ones; here they are an error."""
    try:
        result: Any = set_peft_model_state_dict(model, load_file(folder / WEIGHTS), adapter_name=TRAINED)
    except RuntimeError as error:  # sizes that differ, one line each
        wrong = str(error).splitlines()[-1].strip()
        raise ModelError(f"{folder} does not fit the model ({wrong}): it was trained on another base") from error
    missing = [key for key in result.missing_keys if "lora_" in key and f".{TRAINED}." in key]
    if missing or result.unexpected_keys:
        wrong = (missing + list(result.unexpected_keys))[0]
        raise ModelError(f"{folder} does not fit the model ({wrong}): it was trained on another base")


@contextmanager
def _merged(model: peft.PeftModel) -> Iterator[None]:
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


def _as_saved(settings: peft.PeftConfig) -> dict[str, Any]:
    """An adapter's settings as they stand on disk, without where its base model was found and what it is used for."""
    plain = {key: _plain(value) for key, value in settings.to_dict().items()}
    return plain | {"base_model_name_or_path": None, "inference_mode": True}


def _plain(value: Any) -> Any:
    """A setting as JSON: sets are sorted, for their order changes from process to process."""
    if isinstance(value, set):
        return sorted(value)
    if isinstance(value, Enum):
        return value.value
    return value
