"""Artifacts: what they are (`identity`), what they hold (`manifest`), and how they are made once (`store`)."""

from selfreward.store.identity import Execution, Identity, derive_seed
from selfreward.store.manifest import Cost, Manifest
from selfreward.store.store import Artifact, Metrics, Stage, Store, digests
from selfreward.store.work import Work

__all__ = [
    "Artifact",
    "Cost",
    "Execution",
    "Identity",
    "Manifest",
    "Metrics",
    "Stage",
    "Store",
    "Work",
    "derive_seed",
    "digests",
]
