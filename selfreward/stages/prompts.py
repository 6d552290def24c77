"""The prompts of an iteration, or those held out for evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from selfreward.config import PromptsConfig
from selfreward.records import Prompt
from selfreward.sources.pool import SourceIdentity
from selfreward.stages.tools import Tools
from selfreward.store import Artifact, Identity, Metrics, Stage, Work


@dataclass(frozen=True)
class PromptsIdentity(Identity):
    """Which prompts of which source: those of an iteration, or, where it is None, those held out.

    Iteration 0, without a number, is all that there are to train on.
    """

    source: SourceIdentity
    iteration: int | None
    per_iteration: int | None


def select_prompts(config: PromptsIdentity, parents: Mapping[str, Artifact], work: Work, tools: Tools) -> Metrics:
    """Store the prompts themselves, so that later stages don't depend on the source."""
    pool = tools.pool
    if config.iteration is None:
        prompts = pool.held_out
    elif config.per_iteration is None:
        prompts = pool.train
    else:
        prompts = pool.select(config.per_iteration, config.iteration, work.seed)
    work.shards([prompts], list, Prompt)
    return {
        "prompts": len(prompts),
        "pool": pool.size,
        "left_out": dict(pool.skipped.counts),
        "first_left_out": pool.skipped.first,
        "origin": _origin(tools.cfg.prompts),
    }


def _origin(cfg: PromptsConfig) -> str:
    """What a person would call the source."""
    if cfg.kind == "dataset":
        return " ".join(part for part in (cfg.name, cfg.subset, cfg.split, cfg.revision) if part)
    return Path(cfg.path).name if cfg.path else cfg.kind


PROMPTS = Stage("prompts", 5, select_prompts)
