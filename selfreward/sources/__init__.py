"""Where prompts come from. A source is one function; a new one is one file and one line here."""

from collections.abc import Callable

from selfreward.config import DataConfig, PromptsConfig
from selfreward.sources import constraints, dataset, file, reasoning, seed_pool
from selfreward.sources.pool import Pool

SOURCES: dict[str, Callable[[PromptsConfig, DataConfig], Pool]] = {
    "seed_pool": seed_pool.load,
    "file": file.load,
    "dataset": dataset.load,
    "constraints": constraints.load,
    "reasoning": reasoning.load,
}
