"""Continued training of policy 0 on documents and on their rephrasings, mixed (WRAP, arXiv 2401.16380)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from random import Random
from typing import Any

from selfreward.config import LoraConfig, TuningConfig
from selfreward.errors import ConfigError
from selfreward.records import Chunk, Rephrasing
from selfreward.stages.tools import Tools
from selfreward.stages.tune import tune_on
from selfreward.store import Artifact, Identity, Metrics, Stage, Work
from selfreward.training.examples import Example

Tokens = list[int]
_BLOCK_TOKENS = 512


@dataclass(frozen=True)
class PretrainIdentity(Identity):
    """How much is learned from, which share of it rephrased, and how."""

    rephrased_share: float
    most_tokens: int | None
    tuning: Mapping[str, Any]
    lora: LoraConfig


def pretrain(config: PretrainIdentity, parents: Mapping[str, Artifact], work: Work, tools: Tools) -> Metrics:
    """Train `parents["policy"]` on `parents["chunks"]` not held out and `parents["rephrasings"]`, if any, not left out.

    Of either as many tokens as the share says, over and over where there are fewer. Texts are joined and cut into
    blocks of equal length: with any share the policy sees the same number of tokens in the same number of steps, and
    each of them weighs as much.

    Raises `ConfigError` where rephrasings are asked for and none is fit to be used, or where nothing is left to learn.
    """
    chat = tools.local_engine.chat
    real = [chat.document(chunk.text) for chunk in parents["chunks"].read(Chunk) if not chunk.held_out]
    made = parents["rephrasings"].read(Rephrasing) if "rephrasings" in parents else []
    rephrased = [chat.document(one.text) for one in made if not one.left_out]
    total = 2 * sum(map(len, real)) if config.most_tokens is None else config.most_tokens
    random = Random(work.seed)
    wanted = round(config.rephrased_share * total)
    if wanted and not rephrased:
        remedy = "no rephrasing is fit to be used; set it to 0, or let a stronger policy rephrase"
        raise ConfigError("documents.rephrased_share", config.rephrased_share, remedy)
    taken = {"real": fill_up(real, total - wanted, random), "rephrased": fill_up(rephrased, wanted, random)}
    texts = [*taken["real"], *taken["rephrased"]]
    random.shuffle(texts)
    size = min(_BLOCK_TOKENS, TuningConfig(**config.tuning).max_length)
    examples = [Example(block[:1], block[1:]) for block in blocks(texts, size) if len(block) > 1]
    if not examples:
        remedy = "what is learned from has two tokens at least; raise it, or use 0 to learn nothing"
        raise ConfigError("documents.most_tokens", config.most_tokens, remedy)
    metrics = tune_on(examples, config.tuning, config.lora, parents, work, tools)
    return metrics | {f"{kind}_tokens": sum(map(len, some)) for kind, some in taken.items()}


def fill_up(texts: Sequence[Tokens], wanted: int, random: Random) -> list[Tokens]:
    """Texts in a random order, all before any comes again, until they have so many tokens: the last one is cut."""
    filled: list[Tokens] = []
    for text in cycle(random.sample(texts, len(texts))):
        if wanted <= 0:
            break
        filled.append(text[:wanted])
        wanted -= len(text)
    return filled


def blocks(texts: Sequence[Tokens], size: int) -> list[Tokens]:
    """The texts, one after the other, in blocks of so many tokens; the last one may be shorter."""
    stream = [token for text in texts for token in text]
    return [stream[start : start + size] for start in range(0, len(stream), size)]


PRETRAIN = Stage("policies", 4, pretrain)
