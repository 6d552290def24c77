"""How near does sampling come to what a GPU's memory allows?  `python experiments/bench/bandwidth.py`

A step of decoding reads all weights once, and the keys and values that its answers see. The bound is the time that this
takes at the card's measured bandwidth. The model of `make run`, and one of Llama 3 8B's shape with random weights; each
with an adapter and without.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from typing import Any

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # without a network it holds up the end of the process

import adapters
import torch
from harness import clocked, machine
from large_model import any_tokenizer, large_settings, random_model
from sampling import asked

from selfreward.cap import GIB, enforce_cap, let_segments_grow
from selfreward.compose import compose_run
from selfreward.config import RunConfig
from selfreward.engines.base import Completion, Decoding, SampleRequest
from selfreward.engines.hf import HFEngine
from selfreward.memory.plan import Plan
from selfreward.model import model_files
from selfreward.model.adapters import Adapter
from selfreward.model.lora import save_adapter
from selfreward.model.models import Models

ANSWERS = 4
RUNS = 5


@dataclass(frozen=True)
class Case:
    """A model with what it is asked."""

    name: str
    models: Models
    cfg: RunConfig
    prompts: list[list[int]]
    decoding: Decoding


def main() -> None:
    """Print one line a case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=["small", "large"], help="one of the models")
    parser.add_argument("--runs", type=int, default=RUNS)
    chosen = parser.parse_args()
    if not torch.cuda.is_available():
        print("skipped: needs CUDA", file=sys.stderr)
        return
    let_segments_grow()
    bandwidth = measured_bandwidth()
    for name, make in (("small", small), ("large", large)):
        if chosen.only in (None, name):
            case = make()
            enforce_cap(case.cfg.memory.cap_gb)
            for adapter in (policy(case), None):
                measure(case, adapter, bandwidth, chosen.runs)


def measure(case: Case, adapter: Adapter | None, bandwidth: float, runs: int) -> None:
    """Kept tokens a second of one batch as large as the plan makes it, and the bound's."""
    plan = Plan(case.models.base.config, case.cfg, "cuda")
    rows = plan.sampling_rows
    engine = HFEngine(case.models, rows, plan.scoring_tokens, merge_adapter=False)
    prompts = [case.prompts[place % len(case.prompts)] for place in range(rows // ANSWERS)]
    once = Decoding(case.decoding.temperature, case.decoding.top_p, 1)
    sample(engine, prompts, adapter, case.decoding, 0)  # warms up
    engine.decoded = engine.kept = 0
    seconds: list[float] = []
    shares: list[float] = []
    firsts: list[float] = []
    kept = 0
    torch.cuda.reset_peak_memory_stats()
    for run in range(runs):
        firsts.append(clocked(partial(sample, engine, prompts, adapter, once, run))[0])
        taken, answers = clocked(partial(sample, engine, prompts, adapter, case.decoding, run))
        seconds.append(taken)
        shares.append(bytes_read(case, prompts, answers) / bandwidth / taken)
        kept += sum(len(answer.token_ids) for row in answers for answer in row)
    low, _, high = quantiles(shares, n=4) if runs > 1 else (shares[0],) * 3
    line = {
        "case": f"{case.name}, {'with' if adapter else 'without'} an adapter",
        "rows": rows,
        "kept_tokens_per_s": round(kept / sum(seconds)),
        "bound_tokens_per_s": round(kept / sum(share * taken for share, taken in zip(shares, seconds, strict=True))),
        "share_of_bound": round(median(shares), 3),
        "spread": [round(low, 3), round(high, 3)],
        "runs": runs,
        "seconds": round(median(seconds), 3),
        "seconds_to_first_token": round(median(firsts), 3),
        "kept_share": round(engine.kept / engine.decoded, 3),
        "measured_terabytes_per_s": round(bandwidth / 1e12, 2),
        "peak_gib": round(torch.cuda.max_memory_reserved() / GIB, 1),
        "cap_gib": case.cfg.memory.cap_gb,
        "machine": machine(),
    }
    print(json.dumps(line), flush=True)


def small() -> Case:
    """The model of `make run` and prompts that come with the project, answers of up to 96 tokens."""
    cfg = compose_run(["model.dtype=bfloat16"])
    models = Models(model_files.locate(cfg.model.name, cfg.model.revision), "bfloat16", "cuda")
    prompts = [models.chat.render(text) for text in asked(256)]
    return Case("SmolLM2-135M", models, cfg, prompts, Decoding(0.7, 0.9, 96))


def large() -> Case:
    """8B random weights; prompts of 512 random tokens, answers of 256.

    The temperature makes up for what random weights lack: without it a nucleus would be most of the vocabulary.
    """
    cfg = large_settings()
    source = random.Random(0)
    prompts = [[source.randrange(10, 128_000) for _ in range(512)] for _ in range(64)]
    return Case("8B, random weights", _Random(cfg), cfg, prompts, Decoding(0.1, 0.9, 256))


class _Random(Models):
    """A model that no folder holds."""

    def __init__(self, cfg: RunConfig) -> None:
        self.device, self.dtype = torch.device("cuda"), torch.bfloat16
        self._fused, self._quantization, self._peft = True, "none", None
        self._base = random_model(cfg)
        self.chat: Any = type("Chat", (), {"tokenizer": any_tokenizer(), "end_ids": [1]})()


def policy(case: Case) -> Adapter:
    """An adapter of the case's rank that changes the model a little."""
    if case.name.startswith("SmolLM2"):
        return adapters.policy(case.models)
    folder = Path(tempfile.mkdtemp())
    with case.models.trainable(None, case.cfg.train.lora, 0) as model:
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.data.normal_(0, 0.001)
        save_adapter(model, folder)
    return Adapter("bench-large", folder)


def sample(
    engine: HFEngine, prompts: Sequence[list[int]], adapter: Adapter | None, decoding: Decoding, run: int
) -> list[list[Completion]]:
    """Four answers to each prompt."""
    requests = [
        SampleRequest(prompt, [run * 10_000 + place * ANSWERS + k for k in range(ANSWERS)])
        for place, prompt in enumerate(prompts)
    ]
    return engine.sample(requests, decoding, adapter, lambda *_: None)


def bytes_read(case: Case, prompts: Sequence[list[int]], answers: Sequence[Sequence[Completion]]) -> int:
    """What the steps after the first read at least: weights, and keys and values, a prompt's once for its answers."""
    base: Any = case.models.base
    embedding, output = base.get_input_embeddings().weight, base.get_output_embeddings().weight
    weights = sum(p.numel() for name, p in base.named_parameters() if "lora" not in name)
    weights -= 0 if embedding.data_ptr() == output.data_ptr() else embedding.numel()
    shape = base.config.get_text_config()
    head = getattr(shape, "head_dim", None) or shape.hidden_size // shape.num_attention_heads
    numbers_a_token = 2 * shape.num_key_value_heads * head * shape.num_hidden_layers
    lengths = [[len(answer.token_ids) for answer in row] for row in answers]
    total = 0
    for step in range(1, max(map(max, lengths))):
        seen = sum(
            len(prompt) + step * sum(length > step for length in row)
            for prompt, row in zip(prompts, lengths, strict=True)
            if max(row) > step
        )
        total += weights + seen * numbers_a_token
    return 2 * total


def measured_bandwidth() -> float:
    """Bytes a second that a copy of 4 GiB reads and writes, the best of ten."""
    source = torch.randint(256, (4 * GIB,), dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * len(source) / min(clocked(partial(target.copy_, source))[0] for _ in range(10))


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
