"""The base model as a policy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from selfreward.model.model_files import ModelIdentity
from selfreward.stages.tools import Tools
from selfreward.store import Artifact, Identity, Metrics, Stage, Work


@dataclass(frozen=True)
class BasePolicyIdentity(Identity):
    """The model, and nothing else."""

    model: ModelIdentity


def base_policy(config: BasePolicyIdentity, parents: Mapping[str, Artifact], work: Work, tools: Tools) -> Metrics:
    """An artifact without files, from which all other policies descend: policy 0, unless it is tuned or pretrained."""
    return {}


BASE_POLICY = Stage("policies", 1, base_policy)
