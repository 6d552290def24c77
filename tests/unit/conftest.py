"""What many tests take: the tiny model behind the real engine, left as it was, and a server that fails on request."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from tests.faults import Script, serving

# How fast a machine is says nothing about the code.
settings.register_profile("selfreward", max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("selfreward")

if TYPE_CHECKING:
    from selfreward.config import RunConfig
    from selfreward.engines.hf import HFEngine
    from selfreward.model.chat import Chat
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


@pytest.fixture(scope="session")
def chat(tiny_model: Path) -> Chat:
    """Its chat template."""
    from selfreward.model.chat import Chat

    return Chat(tiny_model)


@pytest.fixture
def script() -> Script:
    """How the server at `url` behaves."""
    return Script()


@pytest.fixture
def url(script: Script) -> Iterator[str]:
    """The address of a server that follows `script`."""
    with serving(script) as address:
        yield address


@pytest.fixture
def cfg(tmp_path: Path) -> RunConfig:
    """A run of which nothing is loaded."""
    from tests.unit.dry_runs import dry_settings

    return dry_settings(tmp_path)
