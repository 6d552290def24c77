"""Prompts from a JSONL or Parquet file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from selfreward.config import PromptsConfig
from selfreward.errors import ConfigError
from selfreward.sources.pool import Pool, columns, identify, make_pool
from selfreward.store.identity import file_sha256


def load(cfg: PromptsConfig) -> Pool:
    """The prompts of `cfg.path`. A JSONL line that is a bare JSON string counts as a row with the prompt alone.

    Raises `ConfigError` for a file that is missing, of another type, or has a line that can't be read.
    """
    if not cfg.path:
        raise ConfigError("prompts.path", cfg.path, "name a .jsonl or .parquet file")
    path = Path(cfg.path)
    if not path.is_file():
        raise ConfigError(
            "prompts.path", cfg.path, f"there is no such file (looked in {path.absolute().parent}); name one"
        )
    return load_file(path, cfg)


def load_file(path: Path, cfg: PromptsConfig) -> Pool:
    """The prompts of one file that exists."""
    readers = {".jsonl": _read_jsonl, ".parquet": _read_parquet}
    if path.suffix not in readers:
        raise ConfigError("prompts.path", path, "use a file that ends in .jsonl or .parquet")
    return make_pool(readers[path.suffix](path, cfg), identify(cfg, file_sha256(path)), cfg, path.name)


def _read_jsonl(path: Path, cfg: PromptsConfig) -> Iterator[dict[str, Any]]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line.decode("utf-8"))
                json.dumps(row, ensure_ascii=False).encode()  # half a surrogate pair is JSON, but no text
            except ValueError as error:
                raise ConfigError(
                    "prompts.path", path, f"line {number} is not JSON text ({error}); mend or remove it"
                ) from error
            if isinstance(row, str):
                row = {cfg.prompt_column: row}
            if not isinstance(row, dict):
                kind = type(row).__name__
                raise ConfigError(
                    "prompts.path", path, f"line {number} is a {kind}, not an object or a string; mend it"
                )
            yield row


def _read_parquet(path: Path, cfg: PromptsConfig) -> Iterator[dict[str, Any]]:
    wanted = columns(cfg)
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            # A column that isn't there is reported by the pool, which sees the names of the first row.
            read = [name for name in names if name in wanted] if {*wanted} - {None} <= {*names} else None
            for batch in file.iter_batches(columns=read):
                yield from batch.to_pylist()
    except pa.ArrowInvalid as error:
        raise ConfigError("prompts.path", path, f"is not a Parquet file ({error}); name another") from error
