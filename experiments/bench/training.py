"""How fast does a policy train, against plain trl?  `python experiments/bench/training.py`

On a CPU: the model and the pairs of `make run`. On a GPU: a model of Llama 3 8B's shape with random weights.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # without a network it holds up the end of the process

import large_model
import torch
from baseline import Choice, plain_trainer
from generating import FAST
from harness import report, timed, timed_training
from pairs import PEOPLE_ASKED, real_pairs, settings

from selfreward.config import RunConfig, TrainConfig
from selfreward.model import model_files
from selfreward.model.models import Models
from selfreward.records import PreferencePair, ReferenceLogprobs
from selfreward.training.dpo import DPOSettings, make_trainer
from selfreward.training.forward import fast_forward
from selfreward.training.reference import compute_references

BLOCK = 8  # pairs in one timed run: two steps, one for trl's default batch
MICRO_BATCH = 4
SCORING_TOKENS = 2048
DEFAULTS = Choice(micro_batch=8)
CHOICES = [
    Choice("eager", 4, autocast=False, checkpointing=False),
    Choice("eager", 4, autocast=True, checkpointing=False),
    Choice("eager", 2, autocast=False, checkpointing=False),
    Choice("sdpa", 4, autocast=False, checkpointing=False),
]

Losses = list[float]


def main() -> None:
    """Print one line a case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, default=8, help="timed runs of each side (8 pairs each)")
    blocks = parser.parse_args().blocks
    if torch.cuda.is_available():
        large_model.compare_training()
    else:
        small_model(blocks)


def small_model(blocks: int) -> None:
    """The model and the pairs of `make run`."""
    cfg = settings()
    pairs = real_pairs(cfg)
    folder = model_files.locate(cfg.model.name, cfg.model.revision)
    ours = Models(folder, FAST, "cpu")
    theirs, exact = Models(folder, FAST, "cpu"), Models(folder, "float32", "cpu")
    best = best_choice(theirs, pairs[:BLOCK], cfg.train)

    parts = blocks_of(pairs)[:blocks]
    references = [timed_references(ours, part, cfg) for part in parts]  # also warms up
    mine, plain = alternated(ours, theirs, parts, references, cfg, best)
    tokens = token_rates(parts, mine, plain)
    report(f"{FAST}, trl at its best", mine, plain, "8 pairs", against=str(best), **tokens)
    with_references = [seconds + made for seconds, (made, _) in zip(mine, references, strict=True)]
    tokens = token_rates(parts, with_references, plain)
    report("the same, and our references computed too", with_references, plain, "8 pairs", **tokens)

    parts, references = parts[:5], references[:5]
    defaults = dataclasses.replace(cfg, train=dataclasses.replace(cfg.train, batch_size=DEFAULTS.micro_batch))
    mine, plain = alternated(ours, exact, parts, references, defaults, DEFAULTS)
    tokens = token_rates(parts, mine, plain)
    report(f"{FAST}, trl's defaults (float32 weights)", mine, plain, "8 pairs", against=str(DEFAULTS), **tokens)

    if PEOPLE_ASKED.exists():
        parts = blocks_of(real_pairs(settings(longest=True)))[:5]
        best = best_choice(theirs, parts[0], cfg.train)
        references = [timed_references(ours, part, cfg) for part in parts]
        mine, plain = alternated(ours, theirs, parts, references, cfg, best)
        tokens = token_rates(parts, mine, plain)
        report(f"{FAST}, trl at its best, the longest prompts", mine, plain, "8 pairs", against=str(best), **tokens)

    _, given = timed_references(exact, pairs, cfg)
    seconds, losses = train_ours(exact, pairs, given, cfg)
    theirs_s, expected = train_plain(exact, pairs, cfg.train, CHOICES[0])
    apart = max(abs(a - b) / b for a, b in zip(losses, expected, strict=True))
    report("float32, losses", [seconds], [theirs_s], "64 pairs", steps=len(losses), largest_relative_difference=apart)


def alternated(
    ours: Models,
    theirs: Models,
    parts: Sequence[Sequence[PreferencePair]],
    references: Sequence[tuple[float, list[ReferenceLogprobs]]],
    cfg: RunConfig,
    choice: Choice,
) -> tuple[list[float], list[float]]:
    """Seconds of each part, our side and plain trl's, one after the other."""
    mine: list[float] = []
    plain: list[float] = []
    for part, (_, given) in zip(parts, references, strict=True):
        mine.append(train_ours(ours, part, given, cfg)[0])
        plain.append(train_plain(theirs, part, cfg.train, choice)[0])
    return mine, plain


def train_ours(
    models: Models, pairs: Sequence[PreferencePair], references: Sequence[ReferenceLogprobs], cfg: RunConfig
) -> tuple[float, Losses]:
    """Seconds and losses of one epoch as the project trains, its references given."""
    micro_batch, checkpointing = cfg.memory.micro_batch or MICRO_BATCH, bool(cfg.memory.gradient_checkpointing)
    how = DPOSettings(cfg.train, cfg.memory, cfg.speed, micro_batch, checkpointing, preflight=False)
    models.base.set_attn_implementation("eager")
    with tempfile.TemporaryDirectory() as folder, models.trainable(None, cfg.train.lora, 0) as model:
        trainer = make_trainer(model, models.chat.tokenizer, pairs, references, how, 0, Path(folder))
        with fast_forward(model.get_base_model(), cfg.speed):
            return timed_training(trainer), losses(trainer)


def train_plain(
    models: Models, pairs: Sequence[PreferencePair], train: TrainConfig, choice: Choice
) -> tuple[float, Losses]:
    """Seconds and losses of one epoch of plain trl."""
    trainer = plain_trainer(models.base, models.chat.tokenizer, pairs, train, choice)
    try:
        return timed_training(trainer), losses(trainer)
    finally:
        model: Any = trainer.model
        model.unload()
        vars(models.base).pop("forward", None)


def timed_references(
    models: Models, pairs: Sequence[PreferencePair], cfg: RunConfig
) -> tuple[float, list[ReferenceLogprobs]]:
    """Seconds that the references of these pairs take, and the references."""
    made: list[ReferenceLogprobs] = []
    with models.trainable(None, cfg.train.lora, 0) as model:
        tokenizer = models.chat.tokenizer

        def compute() -> None:
            made.extend(compute_references(model, tokenizer, pairs, cfg.speed, SCORING_TOKENS, lambda *_: None))

        return timed(compute), made


def best_choice(models: Models, pairs: Sequence[PreferencePair], train: TrainConfig) -> Choice:
    """Of all choices the one that trains a block fastest."""
    train_plain(models, pairs, train, CHOICES[0])  # warms up
    return min(CHOICES, key=lambda choice: train_plain(models, pairs, train, choice)[0])


def blocks_of(pairs: Sequence[PreferencePair]) -> list[Sequence[PreferencePair]]:
    """What is timed at once."""
    return [pairs[start : start + BLOCK] for start in range(0, len(pairs), BLOCK)]


def losses(trainer: Any) -> Losses:
    """The loss of each step."""
    return [entry["loss"] for entry in trainer.state.log_history if "rewards/margins" in entry]


def token_rates(
    parts: Sequence[Sequence[PreferencePair]], ours: Sequence[float], baseline: Sequence[float]
) -> dict[str, float]:
    """Tokens a second as trl counts them: a pair's prompt twice, once with each completion."""
    tokens = sum(2 * len(p.prompt_ids) + len(p.chosen_ids) + len(p.rejected_ids) for part in parts for p in part)
    return {"ours_tokens_per_s": round(tokens / sum(ours)), "baseline_tokens_per_s": round(tokens / sum(baseline))}


if __name__ == "__main__":
    main()
