"""The base model, once in memory, and in it the layers of an adapter: one at a time, whichever is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import peft
import torch
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel
from transformers.utils import logging

from selfreward.cap import release
from selfreward.config import LoraConfig
from selfreward.errors import ConfigError, ModelError
from selfreward.model.adapters import Adapter
from selfreward.model.attention import check_exchange
from selfreward.model.chat import Chat
from selfreward.model.device import pick_attention, pick_device
from selfreward.model.fused_lora import fuse_adapters
from selfreward.model.head import check_head
from selfreward.model.lora import TRAINED, as_saved, fresh_adapter, load_weights, merged_into_weights, read_settings
from selfreward.pretrained import load


class Models:
    """A base model loaded at first use, with one adapter in it. No second copy of the base is ever made.

    An adapter's layers stay in the model for the next one: where that has the same settings, only weights are loaded.

    Raises `ConfigError` for a device that isn't there, and `ModelError` for a model without a chat template.
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
        """The base model. Where an adapter was loaded, its layers are inside it.

        Raises `ModelError` for one that can't be loaded, or computes its logits in a way of its own, and `ConfigError`
        for a quantisation that can't be had.
        """
        if self._base is None:
            self._base = self._load()
        return self._base

    def release(self) -> None:
        """Let go of the weights, base and adapter; they are loaded again when asked for."""
        self._base = self._peft = self._loaded = None
        release()

    @contextmanager
    def policy(self, adapter: Adapter | None, *, merged: bool = False) -> Iterator[torch.nn.Module]:
        """The model with `adapter` switched on, or with none. `merged` folds it into the weights.

        Raises `ModelError` for an adapter that doesn't fit, or is no LoRA.
        """
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
            with merged_into_weights(model):
                yield model
        else:
            yield model

    @contextmanager
    def trainable(self, start: Adapter | None, lora: LoraConfig, seed: int) -> Iterator[peft.PeftModel]:
        """The model with a trainable adapter: a copy of `start`, or a fresh one that changes nothing yet.

        Raises `ModelError` for a start that doesn't fit, or is no LoRA.
        """
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
            attn_implementation=pick_attention(self.device, load(AutoConfig, self.folder)),
            use_safetensors=True,
            **self._quantized(),
        )
        if self._quantization == "none":
            model = model.to(self.device)
        model.requires_grad_(False).eval()
        check_head(model)
        check_exchange(model)
        _undrop(model)
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
        settings, model = read_settings(adapter.folder), self._peft
        if model is None or as_saved(settings) != as_saved(model.peft_config[TRAINED]):
            model = self._inject(settings)
        try:
            load_weights(model, adapter.folder)
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


def _undrop(model: torch.nn.Module) -> None:
    """Have the base drop nothing while an adapter learns, or a policy would be held against itself with other weights.
    trl sees to it of layers alone, and some models drop by a number of their own."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for name, value in [*vars(module).items()]:
            if name.endswith("dropout") and isinstance(value, float):
                setattr(module, name, 0.0)
