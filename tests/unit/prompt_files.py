"""Files of prompts, and pools made of rows that stand here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from selfreward.config import DataConfig, PromptsConfig
from selfreward.sources import SOURCES
from selfreward.sources.pool import Pool, identify, make_pool

COLOURS = ["red", "green", "blue", "cyan"]


def settings(path: Path | None = None, **changes: Any) -> PromptsConfig:
    values: dict[str, Any] = {"kind": "file", "path": path and str(path), "per_iteration": 1, "held_out": 1}
    return PromptsConfig(**values | changes)


def jsonl(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def load(path: Path, on_error: str = "raise", **changes: Any) -> Pool:
    cfg = settings(path, **changes)
    return SOURCES[cfg.kind](cfg, DataConfig(on_error))


def pool_of_rows(rows: list[dict[str, Any]], on_error: str = "raise", **changes: Any) -> Pool:
    cfg = settings(Path("here"), **changes)
    placed = [(f"here, row {number}", lambda row=row: row) for number, row in enumerate(rows, start=1)]
    return make_pool(placed, identify(cfg, "0"), cfg, DataConfig(on_error, max_characters=100), "here")


def pool_of(texts: list[Any], **changes: Any) -> Pool:
    return pool_of_rows([{"prompt": text} for text in texts], on_error="skip", **changes)


def texts(pool: Pool) -> list[str]:
    return sorted(prompt.prompt for prompt in pool.train + pool.held_out)
