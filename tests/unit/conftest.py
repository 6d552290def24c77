"""The tiny model behind the real engine, for tests that leave it as it was."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

# How fast a machine is says nothing about the code.
settings.register_profile("selfreward", max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("selfreward")

if TYPE_CHECKING:
    from selfreward.config import RunConfig
    from selfreward.engines.hf import HFEngine
    from selfreward.model.models import Models


@pytest.fixture(scope="session")
def models(tiny_model: Path) -> Models:
    """The tiny model in float32."""
    from selfreward.model.models import Models  # imports torch, which many tests do without

    return Models(tiny_model, "float32", "cpu")


@pytest.fixture(scope="session")
def engine(models: Models) -> HFEngine:
    """The default engine on the tiny model."""
    from selfreward.engines.hf import HFEngine

    return HFEngine(models, rows=64, scoring_tokens=2048, merge_adapter=False)


@pytest.fixture
def cfg(tmp_path: Path) -> RunConfig:
    """A run of which nothing is loaded."""
    from tests.unit.dry_runs import dry_settings

    return dry_settings(tmp_path)
