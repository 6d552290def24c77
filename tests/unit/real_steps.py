"""A training step that is taken for its memory: on a small model of any architecture, and counted as it goes."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import peft
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.utils.rnn import pad_sequence
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModelForCausalLM
from transformers.models.llama import LlamaConfig
from trl.trainer.utils import add_fused_lm_head

from selfreward.config import LoraConfig, SpeedConfig
from selfreward.model.fused_lora import fuse_adapters
from selfreward.model.lora import fresh_adapter
from selfreward.training.forward import fast_forward

Pairs = Sequence[tuple[int, int, int]]  # tokens of prompt, chosen, rejected

ONE: Pairs = [(200, 100, 100)]
THREE: Pairs = [(200, 20, 20), (10, 100, 150), (64, 64, 64)]
SMALL: dict[str, Any] = {
    "vocab_size": 600,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 7,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LATENT: dict[str, Any] = {
    "q_lora_rank": 16,
    "kv_lora_rank": 8,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "num_key_value_heads": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "moe_intermediate_size": 16,
}
"""What DeepSeek's models have beside, whose keys and values are made of fewer numbers."""


def llama(layers: int = 7, **changes: Any) -> LlamaConfig:
    return LlamaConfig(**SMALL | {"num_hidden_layers": layers, "tie_word_embeddings": True} | changes)


class Living(TorchDispatchMode):
    """The most bytes that storages made within it have held at one time. `known` ones are not counted."""

    def __init__(self, known: Sequence[Tensor]) -> None:
        super().__init__()
        self._known = {reference.cdata: reference for reference in map(_reference, known)}
        self._living: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in [leaf for leaf in tree_leaves(made) if isinstance(leaf, Tensor)]:
            reference = _reference(tensor)
            if reference.cdata not in self._known and reference.cdata not in self._living:
                self._living = {key: kept for key, kept in self._living.items() if not kept[0].expired()}
                self._living[reference.cdata] = reference, tensor.untyped_storage().nbytes()
                self.peak = max(self.peak, sum(size for _, size in self._living.values()))
        return made


def _reference(tensor: Tensor) -> StorageWeakRef:
    return StorageWeakRef(tensor.untyped_storage())


def real_step(
    config: Any,
    pairs: Pairs,
    *,
    dtype: str = "float32",
    checkpointing: bool = False,
    lora: LoraConfig | None = None,
    speed: SpeedConfig | None = None,
    attention: str = "eager",
) -> tuple[Any, list[Tensor], Callable[[], None]]:
    """A model with an adapter, all tensors that are there before the step, and the step, as trl asks for it."""
    torch.manual_seed(0)
    speed = speed or SpeedConfig()
    base: Any = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype)).requires_grad_(False)
    base.set_attn_implementation(attention)
    model = peft.get_peft_model(base, fresh_adapter(lora or LoraConfig()))
    add_fused_lm_head(base)
    if speed.fused_adapter:
        fuse_adapters(model)
    model.train()
    if checkpointing:
        with warnings.catch_warnings(action="ignore"):
            base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        base.enable_input_require_grads()
    lengths = [(pair[0], pair[which]) for which in (1, 2) for pair in pairs]  # all chosen, then all rejected
    ids = pad_sequence([torch.randint(3, 600, (prompt + answer,)) for prompt, answer in lengths], True)
    places = torch.arange(ids.shape[1])
    mask = torch.stack([places < prompt + answer for prompt, answer in lengths]).long()
    prompts = torch.stack([places < prompt for prompt, _ in lengths])
    labels = ids.masked_fill(prompts | (mask == 0), -100)

    def step() -> None:
        with fast_forward(base, speed):
            answer = base(input_ids=ids, attention_mask=mask, labels=labels, fused_lm_head=True)
            answer.log_probs.sum().backward()

    return model, [*model.parameters(), ids, mask, labels], step


def kept(config: Any, pairs: Pairs, **how: Any) -> int:
    _, known, step = real_step(config, pairs, **how)
    with Living(known) as living:
        step()
    return living.peak


def allocated(config: Any, pairs: Pairs, **how: Any) -> int:
    """The same by PyTorch's allocator, which sees within operations too."""
    _, _, step = real_step(config, pairs, **how)
    gc.collect()  # or what earlier steps left would be counted as given back by this one
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        step()
    profiler: Any = profiled.profiler
    now = peak = 0
    for event in profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    return peak
