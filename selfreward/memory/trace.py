"""Bytes that a training step takes beside the weights, found by running it on tensors that have shapes and no data.

The real forward and backward pass runs on a model of two and of four layers on PyTorch's `meta` device, and every
tensor that it makes is counted from its birth to its death. Layers are alike, so the rest is a straight line.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any

import torch
from peft import get_peft_model
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModelForCausalLM
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from selfreward.config import LoraConfig, SpeedConfig
from selfreward.model.attention import is_exchangeable
from selfreward.model.fused_lora import fuse_adapters
from selfreward.model.head import CHUNK_BYTES, Head, score_tokens
from selfreward.model.lora import check_targets, fresh_adapter
from selfreward.training.forward import can_pack, packed_states
from selfreward.training.packing import PACKED_ATTENTION, pack, packed_attention

_LAYERS = (2, 4)
_TRL_TILE = (4096, 32768)  # places and tokens of the vocabulary: trl's constants
_FUSED = "packed_fused_shapes"


class Skeleton:
    """A model without data, with an adapter, whose tensors can be counted.

    Args:
        config: the model's configuration, as transformers reads it.
        dtype: of its weights.
        lora: the adapter that would be trained.
        eager: whether attention is computed as matrix products, as on a CPU, or by a fused kernel that keeps no scores.
        speed: which of the shorter ways training takes.

    Raises `ConfigError` for an adapter on layers that the model lacks.
    """

    def __init__(
        self, config: Any, dtype: str, lora: LoraConfig, *, eager: bool, speed: SpeedConfig | None = None
    ) -> None:
        self._speed = speed or SpeedConfig()
        self._eager = eager
        self._known: dict[tuple[tuple[tuple[int, int, int], ...], bool, bool], int] = {}
        self._dtype: torch.dtype = getattr(torch, dtype)
        self._lora = lora
        self.config = config
        base = self._base(config.get_text_config().num_hidden_layers)
        check_targets(base, lora)
        model = self._adapted(base)
        self.parameters = {name: p for name, p in model.get_base_model().named_parameters() if "lora_" not in name}
        self.adapter_parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
        self.shares_keys = is_exchangeable(model.get_base_model())

    @cached_property
    def is_traceable(self) -> bool:
        """Whether the model can run on tensors without data, cut to a few layers.

        One with routed experts asks where its tokens go, and another's settings say of each layer what others share.
        """
        try:
            self.training_bytes([(2, 1, 1)], checkpointing=False)
        except Exception:  # of a model's own code; then the plan estimates
            return False
        return True

    def training_bytes(self, pairs: Sequence[tuple[int, int, int]], *, checkpointing: bool, later: bool = False) -> int:
        """Peak of activations and gradients of one micro-batch, given its pairs' lengths: prompt, chosen, rejected.

        A `later` micro-batch of a step finds the gradients of those before it.
        """
        key = (tuple(pairs), checkpointing, later)
        if key not in self._known:
            self._known[key] = self._traced(pairs, checkpointing=checkpointing, later=later)
        return self._known[key]

    def _traced(self, pairs: Sequence[tuple[int, int, int]], *, checkpointing: bool, later: bool) -> int:
        shallow, deep = (self._peak(layers, pairs, checkpointing=checkpointing, later=later) for layers in _LAYERS)
        more = self.config.get_text_config().num_hidden_layers - _LAYERS[0]
        line = shallow + (deep - shallow) * more // (_LAYERS[1] - _LAYERS[0])
        gradients = 4 * self.adapter_parameters
        return line + gradients if later else max(line, gradients)

    def _peak(self, layers: int, pairs: Sequence[tuple[int, int, int]], *, checkpointing: bool, later: bool) -> int:
        base = self._base(layers)
        model = self._adapted(base)
        ours = self._speed.completion_head and Head(base).is_plain
        packs = ours and self._speed.share_prompt and can_pack(base)
        base.set_attn_implementation(self._kernel(base, packs=packs))
        model.train()
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        if later:
            for parameter in trained:
                parameter.grad = torch.empty_like(parameter)
        if checkpointing:
            base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            base.enable_input_require_grads()
        CHUNK_BYTES["meta"] = CHUNK_BYTES["cpu" if self._eager else "cuda"]
        weight_VH = base.get_output_embeddings().weight
        mean_weight_H = torch.empty(weight_VH.shape[1], device="meta")
        known = [*model.parameters(), *(parameter.grad for parameter in trained if parameter.grad is not None)]
        with _Count(known) as count:
            states_TH = _packed(base, pairs) if packs else _rows(base, pairs, all_places=not ours)
            target_T = torch.empty(len(states_TH), dtype=torch.long, device="meta")
            if ours:
                score_tokens(states_TH, weight_VH, target_T, mean_weight_H).log_probs_T.sum().backward()
            else:
                _TrlHeadShapes.apply(states_TH, len(weight_VH)).sum().backward()
        return count.peak

    def _kernel(self, base: Any, *, packs: bool) -> str:
        if packs:
            return PACKED_ATTENTION["eager"] if self._eager else _FUSED
        return "eager" if self._eager or not base._supports_sdpa else "sdpa"

    def _base(self, layers: int) -> Any:
        config = copy.deepcopy(self.config)
        text = config.get_text_config()
        text.num_hidden_layers = layers
        if getattr(text, "layer_types", None):
            with suppress(AttributeError):  # where it follows from the number of layers
                text.layer_types = text.layer_types[:layers]
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, dtype=self._dtype).requires_grad_(False)

    def _adapted(self, base: Any) -> Any:
        model = get_peft_model(base, fresh_adapter(self._lora), low_cpu_mem_usage=True)
        if self._speed.fused_adapter:
            fuse_adapters(model)
        return model


def _packed(base: Any, pairs: Sequence[tuple[int, int, int]]) -> Tensor:
    packing = pack(pairs)
    return packed_states(base, packing, torch.empty(sum(packing.sizes), dtype=torch.long, device="meta"))


def _rows(base: Any, pairs: Sequence[tuple[int, int, int]], *, all_places: bool) -> Tensor:
    """As trl lays them out: a prompt with each completion in a row of its own, as long as the longest."""
    length = max(prompt + max(chosen, rejected) for prompt, chosen, rejected in pairs)
    ids_BL = torch.empty(2 * len(pairs), length, dtype=torch.long, device="meta")
    # A whole mask is given: from one of rows the library would read values, and there are none.
    mask_B1LL = torch.empty(len(ids_BL), 1, length, length, dtype=base.dtype, device="meta")
    output = base.base_model(input_ids=ids_BL, attention_mask=mask_B1LL, use_cache=False)
    states_NH = output.last_hidden_state.flatten(0, 1)
    scored = len(states_NH) if all_places else sum(chosen + rejected for _, chosen, rejected in pairs)
    return states_NH[torch.arange(scored, device="meta")]


class _Count(TorchDispatchMode):
    """Counts the bytes of tensors made within it, as long as they live. `known` tensors are not counted."""

    def __init__(self, known: Any) -> None:
        super().__init__()
        self._sizes = {tensor.untyped_storage()._cdata: 0 for tensor in known}
        self._now = 0
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(made):
            if isinstance(leaf, Tensor) and leaf.device.type == "meta":
                storage = leaf.untyped_storage()
                if storage._cdata not in self._sizes:
                    self._sizes[storage._cdata] = storage.nbytes()
                    self._now += storage.nbytes()
                    self.peak = max(self.peak, self._now)
                    weakref.finalize(storage, self._freed, storage._cdata)
        return made

    def _freed(self, key: int) -> None:
        self._now -= self._sizes.pop(key, 0)


class _TrlHeadShapes(torch.autograd.Function):
    """What trl's head makes: a buffer for a tile of logits, eight of a tile in float32, and the states' gradient.

    Its own code asks for the device's autocast, and there is none for a device without data.
    """

    @staticmethod
    def forward(ctx: Any, states_NH: Tensor, vocabulary: int) -> Tensor:
        rows, width = min(len(states_NH), _TRL_TILE[0]), _TRL_TILE[1]
        ctx.save_for_backward(states_NH)
        _ = [states_NH.new_empty(rows, width), torch.empty_like(states_NH, dtype=torch.float32)] + [
            states_NH.new_empty(rows, min(width, vocabulary), dtype=torch.float32) for _ in range(8)
        ]
        return states_NH.new_empty(len(states_NH), dtype=torch.float32)

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return torch.empty_like(ctx.saved_tensors[0]), None


class _FusedShapes(torch.autograd.Function):
    """What a fused kernel keeps: its inputs, its output, and one number a query."""

    @staticmethod
    def forward(ctx: Any, query_AND: Tensor, key_KMD: Tensor, value_KMD: Tensor) -> Tensor:
        output_AND = torch.empty_like(query_AND)
        total_AN = torch.empty(query_AND.shape[:2], dtype=torch.float32, device=query_AND.device)
        ctx.save_for_backward(query_AND, key_KMD, value_KMD, output_AND, total_AN)
        return output_AND

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> tuple[Tensor, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return tuple(torch.empty_like(tensor) for tensor in ctx.saved_tensors[:3])


ALL_ATTENTION_FUNCTIONS.register(_FUSED, packed_attention(lambda q, k, v, _: _FusedShapes.apply(q, k, v)))
