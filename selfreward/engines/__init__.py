"""What runs the model. An engine is one file and one line here; it is imported when it is chosen.

It is told how many answers to decode side by side, and how many tokens to score at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from selfreward.config import EngineConfig, MemoryConfig

if TYPE_CHECKING:
    from selfreward.engines.base import Engine
    from selfreward.models import Models


def _hf(models: Models, engine: EngineConfig, memory: MemoryConfig, sampling_rows: int, scoring_tokens: int) -> Engine:
    from selfreward.engines.hf import HFEngine

    return HFEngine(models, sampling_rows, scoring_tokens, merge_adapter=engine.merge_adapter, ram_gb=memory.ram_gb)


ENGINES: dict[str, Callable[[Models, EngineConfig, MemoryConfig, int, int], Engine]] = {"hf": _hf}
