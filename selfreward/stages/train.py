"""A policy from the previous one: preference training on the pairs that it made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from selfreward.config import LoraConfig, TrainConfig
from selfreward.records import PreferencePair, ReferenceLogprobs
from selfreward.stages.tools import Tools
from selfreward.store import Artifact, Identity, Metrics, Stage, Work, derive_seed

SETTINGS = (
    "loss",
    "beta",
    "learning_rate",
    "schedule",
    "warmup_ratio",
    "weight_decay",
    "max_grad_norm",
    "label_smoothing",
    "epochs",
    "batch_size",
)
"""What of the configuration a policy depends on: no pair is cut to `max_length`, and the model has `quantization`."""


@dataclass(frozen=True)
class PolicyIdentity(Identity):
    """How the policy was trained. What it was held to, and how that was scored, its parents say."""

    train: Mapping[str, Any]
    lora: LoraConfig


def train(config: PolicyIdentity, parents: Mapping[str, Artifact], work: Work, tools: Tools) -> Metrics:
    """Train on `parents["pairs"]`, starting from the adapter of `parents["policy"]`, held to `parents["reference"]`.

    `parents["references"]` has the reference log-probabilities; without it, those recorded with the pairs are taken.
    """
    from selfreward.model.lora import save_adapter  # these import torch and trl, which a finished run does without
    from selfreward.training.dpo import DPOSettings, Start, train_dpo
    from selfreward.training.reference import recorded_references

    pairs = parents["pairs"].read(PreferencePair)
    given = parents.get("references")
    references = given.read(ReferenceLogprobs) if given else recorded_references(pairs)
    previous, reference = tools.adapter(parents["policy"]), tools.adapter(parents["reference"])
    start = Start(
        reference="itself" if previous == reference else "base" if reference is None else "another",
        seed=derive_seed(work.seed, parents["pairs"].id) % 2**31,
    )
    fit = tools.plan.fit_training([(len(p.prompt_ids), len(p.chosen_ids), len(p.rejected_ids)) for p in pairs])
    work.planned_memory = fit.total
    how = TrainConfig(**config.train, lora=config.lora, max_length=tools.cfg.train.max_length)
    settings = DPOSettings(
        how, tools.memory, tools.speed, fit.micro_batch, fit.gradient_checkpointing, tools.plan.preflight
    )
    with tools.models.trainable(previous, config.lora, start.seed) as model:
        metrics = train_dpo(model, tools.models.chat.tokenizer, pairs, references, settings, start, work)
        if work.group.leads:
            save_adapter(model, work.folder)
    return metrics


TRAIN = Stage("policies", 4, train)
