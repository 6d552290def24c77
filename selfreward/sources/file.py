"""Prompts from a JSONL or Parquet file."""

from __future__ import annotations

from pathlib import Path

from selfreward.config import DataConfig, PromptsConfig
from selfreward.errors import ConfigError, no_such_file
from selfreward.rows import SUFFIXES, rows_of
from selfreward.sources.pool import Pool, columns, identify, make_pool
from selfreward.store.identity import file_sha256


def load(cfg: PromptsConfig, data: DataConfig) -> Pool:
    """The prompts of `cfg.path`. A JSONL line that is a bare JSON string counts as a row with the prompt alone.

    Raises `ConfigError` for a file that is missing, of another type or without prompts, and `DataError` for a row.
    """
    if not cfg.path:
        raise ConfigError("prompts.path", cfg.path, f"name a file that ends in {', '.join(SUFFIXES)}")
    if not Path(cfg.path).is_file():
        raise no_such_file("prompts.path", Path(cfg.path))
    return load_file(Path(cfg.path), cfg, data)


def load_file(path: Path, cfg: PromptsConfig, data: DataConfig) -> Pool:
    """The prompts of one file that exists."""
    wanted = [column for column in columns(cfg) if column]
    rows = rows_of(path, "prompts.path", wanted)
    return make_pool(rows, identify(cfg, file_sha256(path), data), cfg, data, path.name)
