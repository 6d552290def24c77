"""A model of Llama 3 8B's shape with random weights: it needs no download, and costs what the real one costs."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import torch
from baseline import Choice, plain_trainer
from harness import report, timed_training
from peft import get_peft_model
from tokenizers import Tokenizer, models
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from selfreward.cap import GIB, enforce_cap, let_segments_grow
from selfreward.config import LoraConfig, RunConfig
from selfreward.memory.plan import Plan, TrainingFit
from selfreward.memory.shapes import model_config
from selfreward.model.fused_lora import fuse_adapters
from selfreward.model.lora import fresh_adapter
from selfreward.records import PreferencePair
from selfreward.training.dpo import DPOSettings, make_trainer
from selfreward.training.forward import fast_forward
from selfreward.training.reference import compute_references

NAME = "meta-llama/Meta-Llama-3-8B-Instruct"
PROMPT, COMPLETION = 1024, 1024
STEP_PAIRS = 4
RUNS = 5
PEAK_FLOPS = 989e12  # dense bfloat16 of an H100 or H200, as NVIDIA gives it


def compare_training() -> None:
    """Speed, model FLOP utilisation and peak memory of training, ours and plain trl's."""
    cfg = large_settings()
    let_segments_grow()  # for both sides
    enforce_cap(cfg.memory.cap_gb)
    base, tokenizer = random_model(cfg), any_tokenizer()
    pairs = random_pairs(STEP_PAIRS)
    plan = Plan(base.config, cfg, "cuda")
    fit = plan.fit_training([lengths(pair) for pair in pairs])
    useful = step_flops(base, pairs)
    plain = fastest_plain(base, tokenizer, pairs, cfg)
    mine: list[float] = []
    theirs: list[float] = []
    peaks: list[int] = []
    for _ in range(RUNS):
        with our_trainer(base, tokenizer, pairs, cfg, fit) as trainer:
            torch.cuda.reset_peak_memory_stats()
            mine.append(timed_training(trainer))
            peaks.append(torch.cuda.max_memory_reserved())
        theirs.append(train_plain(base, tokenizer, pairs, cfg, plain))
    peak = max(peaks) / GIB
    report(
        f"8B, LoRA r={cfg.train.lora.r}, {PROMPT} + {COMPLETION} tokens, {STEP_PAIRS} pairs a step",
        mine,
        theirs,
        "1 step",
        against=str(plain),
        micro_batch=fit.micro_batch,
        gradient_checkpointing=fit.gradient_checkpointing,
        model_flop_utilisation=round(useful / median(mine) / PEAK_FLOPS, 3),
        baseline_model_flop_utilisation=round(useful / median(theirs) / PEAK_FLOPS, 3),
        peak_gib=round(peak, 1),
        planned_gib=round((fit.total - plan.costs.fixed["CUDA context"]) / GIB, 1),
        cap_gib=cfg.memory.cap_gb,
    )


def large_settings() -> RunConfig:
    """8B, LoRA r=64, sequences of 2,048 tokens, half of them prompt."""
    cfg = RunConfig()
    cfg.model.name = NAME
    cfg.train.lora = LoraConfig(r=64, alpha=128)
    cfg.train.batch_size = STEP_PAIRS
    cfg.train.max_length = PROMPT + COMPLETION
    cfg.sampling.max_prompt_tokens = PROMPT
    cfg.sampling.max_new_tokens = COMPLETION
    return cfg


def random_model(cfg: RunConfig) -> Any:
    """The model on the GPU, its weights random."""
    torch.manual_seed(0)
    with torch.device("cuda"):
        model: Any = AutoModelForCausalLM.from_config(model_config(cfg.model.name, None), dtype=torch.bfloat16)
    return model.requires_grad_(False).eval()


def any_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer that trl can ask for its padding token; nothing is tokenized."""
    vocabulary = {"<pad>": 0, "<end>": 1}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="<end>")


def random_pairs(count: int) -> list[PreferencePair]:
    """Pairs of random tokens, each of the greatest length."""
    source = random.Random(0)

    def ids(length: int) -> list[int]:
        return [source.randrange(10, 128_000) for _ in range(length)]

    return [
        PreferencePair(str(i), "", ids(PROMPT), 0, ids(COMPLETION), [], 1.0, 1, ids(COMPLETION), [], 0.0)
        for i in range(count)
    ]


def lengths(pair: PreferencePair) -> tuple[int, int, int]:
    """Tokens of prompt, chosen and rejected."""
    return len(pair.prompt_ids), len(pair.chosen_ids), len(pair.rejected_ids)


def step_flops(base: Any, pairs: Sequence[PreferencePair]) -> float:
    """Floating-point operations that a step needs: each prompt once, no gradient of frozen weights.

    Two a weight and token forward, two for the gradient with respect to the inputs; attention by the pairs of places
    that see each other, forward and twice that backward.
    """
    config = base.config
    weights = sum(p.numel() for name, p in base.named_parameters() if "embed" not in name and "lm_head" not in name)
    total = 0.0
    for prompt, chosen, rejected in map(lengths, pairs):
        total += 4 * weights * (prompt + chosen + rejected)
        total += 4 * config.vocab_size * config.hidden_size * (chosen + rejected)
        seen = (prompt + chosen) ** 2 / 2 + rejected * prompt + rejected**2 / 2
        total += 3 * 4 * seen * config.hidden_size * config.num_hidden_layers
    return total


@contextmanager
def our_trainer(
    base: Any, tokenizer: Any, pairs: Sequence[PreferencePair], cfg: RunConfig, fit: TrainingFit
) -> Iterator[Any]:
    """The project's trainer with a fresh adapter, its references computed, ready to train."""
    base.set_attn_implementation("sdpa")
    torch.manual_seed(0)
    model: Any = get_peft_model(base, fresh_adapter(cfg.train.lora))
    fuse_adapters(model)
    references = compute_references(model, tokenizer, pairs, cfg.speed, 16384, lambda *_: None)
    how = DPOSettings(cfg.train, cfg.memory, cfg.speed, fit.micro_batch, fit.gradient_checkpointing, preflight=False)
    try:
        with tempfile.TemporaryDirectory() as folder:
            trainer = make_trainer(model, tokenizer, pairs, references, how, 0, Path(folder))
            with fast_forward(base, cfg.speed):
                yield trainer
    finally:
        restore(model, base)


def train_plain(base: Any, tokenizer: Any, pairs: Sequence[PreferencePair], cfg: RunConfig, choice: Choice) -> float:
    """Seconds of one epoch of plain trl."""
    trainer = plain_trainer(base, tokenizer, pairs, cfg.train, choice)
    try:
        return timed_training(trainer)
    finally:
        restore(trainer.model, base)


def fastest_plain(base: Any, tokenizer: Any, pairs: Sequence[PreferencePair], cfg: RunConfig) -> Choice:
    """Of the choices that fit under the cap, the one that trains fastest after a first step."""
    found: dict[Choice, float] = {}
    for attention in ("sdpa", "eager"):
        for micro_batch in (1, 2):
            for checkpointing in (False, True):
                choice = Choice(attention, micro_batch, autocast=False, checkpointing=checkpointing)
                try:
                    train_plain(base, tokenizer, pairs, cfg, choice)
                    found[choice] = train_plain(base, tokenizer, pairs, cfg, choice)
                except torch.OutOfMemoryError:
                    torch.cuda.empty_cache()
    return min(found, key=found.__getitem__)


def restore(model: Any, base: Any) -> None:
    """Take the adapter off again."""
    model.unload()
    vars(base).pop("forward", None)
    base.requires_grad_(False)
    base.gradient_checkpointing_disable()
