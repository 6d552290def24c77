"""What runs the model. An engine is one file and one line here; it is imported when it is chosen."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from selfreward.config import EngineConfig, MemoryConfig

if TYPE_CHECKING:
    from selfreward.engines.base import Engine
    from selfreward.models import Models


def _hf(models: Models, engine: EngineConfig, memory: MemoryConfig) -> Engine:
    from selfreward.engines.hf import HFEngine

    return HFEngine(models, memory.sampling_rows, memory.scoring_tokens, merge_adapter=engine.merge_adapter)


ENGINES: dict[str, Callable[[Models, EngineConfig, MemoryConfig], Engine]] = {"hf": _hf}
