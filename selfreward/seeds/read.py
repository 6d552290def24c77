"""What people wrote, read and cleaned: each answer once, none too long, and some prompts kept apart."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from selfreward.config import DataConfig, SeedFileConfig
from selfreward.errors import ConfigError
from selfreward.records import Demonstration, Rating
from selfreward.rows import THERE_ALREADY, Skipped, collect, rows_of, too_long
from selfreward.seeds.formats import FORMATS

Seed = TypeVar("Seed", Demonstration, Rating)


@dataclass(frozen=True)
class Seeds(Generic[Seed]):
    """What is there to learn from, what is kept apart, and what was left out of both."""

    train: list[Seed]
    held_out: list[Seed]
    skipped: Skipped


def read_demonstrations(key: str, cfg: SeedFileConfig, data: DataConfig) -> Seeds[Demonstration]:
    """The demonstrations of the file that `key` configures."""
    format = FORMATS[cfg.format]
    return _read(format.demonstrations, format.columns[0], key, cfg, data)


def read_ratings(key: str, cfg: SeedFileConfig, data: DataConfig) -> Seeds[Rating]:
    """The same of ratings."""
    format = FORMATS[cfg.format]
    return _read(format.ratings, format.columns[1], key, cfg, data)


def _read(
    parse: Callable[[Any, SeedFileConfig], list[Seed]],
    columns: Sequence[str],
    key: str,
    cfg: SeedFileConfig,
    data: DataConfig,
) -> Seeds[Seed]:
    """Raises `ConfigError` for a file that can't be read or holds too little, and `DataError` for a row."""
    skipped = Skipped()
    path = Path(str(cfg.path))
    rows = rows_of(path, f"{key}.path")
    read = collect(
        rows,
        lambda row: parse(row, cfg),
        on_error=data.on_error,
        skipped=skipped,
        columns={f"{key}.{name}": getattr(cfg, name) for name in columns},
        origin=path.name,
    )
    kept = list(_kept(read, data.max_characters, skipped))
    if not kept:
        remedy = f"nothing to learn from is left of {len(read)} answers; name another file"
        raise ConfigError(f"{key}.path", path, remedy)
    names = sorted({seed.prompt_id for _, seed in kept})
    apart = set(names[: cfg.held_out])  # the smallest: a choice that is arbitrary, and that no seed changes
    train = [seed for _, seed in kept if seed.prompt_id not in apart]
    if not train:
        remedy = f"the file has {len(names)} prompts, and none would be left to learn from; hold out fewer"
        raise ConfigError(f"{key}.held_out", cfg.held_out, remedy)
    return Seeds(train, [seed for _, seed in kept if seed.prompt_id in apart], skipped)


def _kept(read: Sequence[tuple[str, Seed]], most: int, skipped: Skipped) -> Iterable[tuple[str, Seed]]:
    known: set[tuple[str, ...]] = set()
    scores: defaultdict[tuple[str, ...], set[float]] = defaultdict(set)
    for _, seed in read:
        if isinstance(seed, Rating):
            scores[answer_key(seed)].add(seed.score)
    for place, seed in read:
        if max(len(seed.prompt), len(seed.response)) > most:
            skipped.add(too_long(most), place)
        elif len(scores[answer_key(seed)]) > 1:
            skipped.add("is rated in two ways", place)
        elif answer_key(seed) in known:
            skipped.add(THERE_ALREADY, place)
        else:
            known.add(answer_key(seed))
            yield place, seed


def answer_key(seed: Demonstration | Rating) -> tuple[str, ...]:
    """What is the same of an answer that stands in a file twice; one may be ranked in several groups."""
    return seed.prompt_id, seed.response, seed.group if isinstance(seed, Rating) else ""
