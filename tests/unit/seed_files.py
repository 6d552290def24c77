"""Small files of what people wrote, and how they are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from selfreward.config import DataConfig, SeedFileConfig
from selfreward.records import Demonstration, Rating
from selfreward.seeds.read import Seeds, read_demonstrations, read_ratings


def jsonl(folder: Path, *rows: Any) -> Path:
    path = folder / "people.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def demonstrations(path: Path, on_error: str = "raise", **reading: Any) -> Seeds[Demonstration]:
    return read_demonstrations("tuning.demonstrations", SeedFileConfig(str(path), **reading), DataConfig(on_error))


def ratings(path: Path, on_error: str = "raise", **reading: Any) -> Seeds[Rating]:
    return read_ratings("tuning.ratings", SeedFileConfig(str(path), **reading), DataConfig(on_error))


def scores(seeds: Seeds[Rating]) -> dict[str, float]:
    return {rating.response: rating.score for rating in seeds.train}


def tree(replies: list[Any], **changes: Any) -> dict[str, Any]:
    prompt = {"text": "Name a colour.", "role": "prompter", "lang": "en", "replies": replies}
    return {"message_tree_id": "t", "prompt": prompt | changes}


def reply(text: str, rank: int | None, **changes: Any) -> dict[str, Any]:
    return {"text": text, "role": "assistant", "lang": "en", "rank": rank, "replies": []} | changes
