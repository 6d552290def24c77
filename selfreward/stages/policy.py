"""Policy 0: the base model, with no adapter yet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from selfreward.model_files import ModelIdentity
from selfreward.stages.tools import Tools
from selfreward.store import Artifact, Identity, Metrics, Stage, Work


@dataclass(frozen=True)
class SeedPolicyIdentity(Identity):
    """Policy 0 is its model."""

    model: ModelIdentity


def seed_policy(config: SeedPolicyIdentity, parents: Mapping[str, Artifact], work: Work, tools: Tools) -> Metrics:
    """An artifact without files: all later policies descend from it, and so from this model."""
    return {}


SEED_POLICY = Stage("policies", 1, seed_policy)
