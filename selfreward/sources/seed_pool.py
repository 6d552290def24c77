"""The prompts that come with the project: 240 instructions in twelve categories, 48 of them held out."""

from __future__ import annotations

from pathlib import Path

from selfreward.config import DataConfig, PromptsConfig
from selfreward.sources.file import load_file
from selfreward.sources.pool import Pool

PATH = Path(__file__).parent.parent / "data" / "seed_prompts.jsonl"


def load(cfg: PromptsConfig, data: DataConfig) -> Pool:
    """The seed pool."""
    return load_file(PATH, cfg, data)
