"""A policy from the previous one: preference training on the pairs that it made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from selfreward.config import TrainConfig
from selfreward.records import PreferencePair
from selfreward.stages.tools import Tools
from selfreward.store import Artifact, Identity, Metrics, Stage, Work, derive_seed


@dataclass(frozen=True)
class PolicyIdentity(Identity):
    """How the policy was trained."""

    train: TrainConfig


def train(config: PolicyIdentity, parents: Mapping[str, Artifact], work: Work, tools: Tools) -> Metrics:
    """Train on `parents["pairs"]`, starting from the adapter of `parents["policy"]`."""
    from selfreward.models import save_adapter  # these import torch and trl, which a finished run does without
    from selfreward.training.dpo import Start, train_dpo

    pairs = parents["pairs"].read(PreferencePair)
    previous = tools.adapter(parents["policy"])
    start = Start(
        equals_reference=previous is None or config.train.reference == "previous",
        seed=derive_seed(work.seed or 0, parents["pairs"].id) % 2**31,
    )
    with tools.models.trainable(previous, config.train.lora, start.seed) as model:
        metrics = train_dpo(model, tools.models.chat.tokenizer, pairs, config.train, tools.memory, start, work)
        save_adapter(model, work.folder)
    return metrics


TRAIN = Stage("policies", 1, train)
