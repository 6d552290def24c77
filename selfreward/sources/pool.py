"""A pool of prompts: those to train on, those held out for evaluation, and what identifies their source."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from selfreward.config import PromptsConfig
from selfreward.errors import ConfigError
from selfreward.records import Prompt
from selfreward.simulation.checks import Check, dump
from selfreward.simulation.final_answer import final_answer
from selfreward.store.identity import Identity, derive_seed

COLUMN_KEYS = ("prompt_column", "category_column", "held_out_column", "answer_column")
"""The settings that name a column, in the order that `SourceIdentity` has them."""

HELD_OUT_SEED = 0
"""Of prompts that are drawn: no run's seed changes what is held out."""


@dataclass(frozen=True)
class SourceIdentity(Identity):
    """What a pool is made of: the source's content and how it is read. Paths are not part of it."""

    kind: str
    content: str  # SHA-256 of the file, or name and commit of the data set
    prompt_column: str
    category_column: str | None
    held_out_column: str | None
    answer_column: str | None
    held_out: int


@dataclass(frozen=True)
class Pool:
    """Distinct prompts, in two parts that share none. `empty` and `duplicates` count the rows left out."""

    source: SourceIdentity
    train: list[Prompt]
    held_out: list[Prompt]
    empty: int
    duplicates: int

    @property
    def size(self) -> int | None:
        """How many prompts there are to train on; None where there is no end of them."""
        return len(self.train)

    def select(self, count: int, iteration: int, seed: int) -> list[Prompt]:
        """The prompts of an iteration: none comes again before the pool is used up, then it is shuffled anew."""
        rounds = len(self.train) // count
        cycle, position = divmod(iteration - 1, rounds)
        order = random.Random(derive_seed(seed, "prompts", cycle)).sample(self.train, len(self.train))
        return order[position * count : (position + 1) * count]


@dataclass(frozen=True)
class EndlessPool(Pool):
    """Prompts that are made when they are asked for: `draw` gives one. None is held out, and none comes twice."""

    draw: Callable[[random.Random], Prompt]

    @property
    def size(self) -> None:
        return None

    def select(self, count: int, iteration: int, seed: int) -> list[Prompt]:
        """The prompts of an iteration. Those of earlier ones are drawn again, so that none of them comes twice."""
        made = {prompt.prompt_id: prompt for prompt in self.held_out}
        for earlier in range(1, iteration + 1):
            made |= draw_distinct(self.draw, count, derive_seed(seed, "prompts", earlier), made)
        return list(made.values())[-count:]


def draw_distinct(
    draw: Callable[[random.Random], Prompt], count: int, seed: int, but: Collection[str] = ()
) -> dict[str, Prompt]:
    """So many prompts by id, none of them among those of `but`.

    Raises `ConfigError` where chance finds no new ones.
    """
    generator = random.Random(seed)
    made: dict[str, Prompt] = {}
    misses = 0
    while len(made) < count:
        prompt = draw(generator)
        if prompt.prompt_id in but or prompt.prompt_id in made:
            misses += 1
            if misses > 100 * count:
                raise ConfigError("prompts.per_iteration", count, f"no more than {len(made)} new prompts are found")
            continue
        made[prompt.prompt_id] = prompt
    return made


def make_pool(rows: Iterable[Mapping[str, Any]], source: SourceIdentity, cfg: PromptsConfig, origin: str) -> Pool:
    """A pool from rows of any columns.

    A prompt's id is a hash of its text, so a text that stands twice is one prompt. Without a held-out column, the
    held-out prompts are those with the smallest ids: a choice that is arbitrary, yet no seed can change it.

    Raises `ConfigError` for a column that isn't there, a pool that is empty, or one too small for what is asked of it.
    """
    found: dict[str, Prompt] = {}
    marked: set[str] = set()
    empty = duplicates = total = 0
    for row in rows:
        total += 1
        for key, column in zip(COLUMN_KEYS, columns(cfg), strict=True):
            if column is not None and column not in row:
                raise ConfigError(
                    f"prompts.{key}", column, f"{origin} has the columns {', '.join(row)}; name one of them"
                )
        text = row[cfg.prompt_column]
        if not isinstance(text, str) or not text.strip():
            empty += 1
            continue
        prompt = Prompt(prompt_id(text), text.strip(), _category(row, cfg), _check(row, cfg))
        duplicates += prompt.prompt_id in found
        found.setdefault(prompt.prompt_id, prompt)
        if cfg.held_out_column is not None and row[cfg.held_out_column] == "held_out":
            marked.add(prompt.prompt_id)
    if not found:
        raise ConfigError(source_key(cfg), origin, f"holds no prompt in {total} rows; name a source with prompts in it")
    by_id = sorted(found.values(), key=lambda prompt: prompt.prompt_id)
    reserved = [prompt for prompt in by_id if prompt.prompt_id in marked] if cfg.held_out_column else by_id
    held_out = reserved[: cfg.held_out]
    if len(held_out) < cfg.held_out:
        raise ConfigError(
            "prompts.held_out", cfg.held_out, f"{origin} holds out {len(reserved)} prompts; use at most that"
        )
    apart = marked | {prompt.prompt_id for prompt in held_out}
    train = [prompt for prompt in by_id if prompt.prompt_id not in apart]
    if len(train) < cfg.per_iteration:
        raise ConfigError(
            "prompts.per_iteration",
            cfg.per_iteration,
            f"{origin} has {len(train)} prompts to train on beside {len(apart)} held out; use at most that",
        )
    return Pool(source, train, held_out, empty, duplicates)


def source_key(cfg: PromptsConfig) -> str:
    """The key by which a person named the source."""
    return {"file": "prompts.path", "dataset": "prompts.name"}.get(cfg.kind, "prompts.kind")


def identify(cfg: PromptsConfig, content: str) -> SourceIdentity:
    """The identity of a source with this content, read as `cfg` says."""
    return SourceIdentity(cfg.kind, content, *columns(cfg), cfg.held_out)


def columns(cfg: PromptsConfig) -> tuple[str, str | None, str | None, str | None]:
    """The columns that `COLUMN_KEYS` name; None for one that is not."""
    return cfg.prompt_column, cfg.category_column, cfg.held_out_column, cfg.answer_column


def listed(names: str) -> set[str]:
    """Names that are joined by commas."""
    return {name.strip() for name in names.split(",") if name.strip()}


def prompt_id(text: str) -> str:
    """A prompt's id: equal texts are one prompt."""
    return hashlib.sha256(text.strip().encode()).hexdigest()[:12]


def _check(row: Mapping[str, Any], cfg: PromptsConfig) -> str:
    if cfg.answer_column is None:
        return ""
    return dump([Check("final_answer", {"answer": final_answer(str(row[cfg.answer_column]))})])


def _category(row: Mapping[str, Any], cfg: PromptsConfig) -> str:
    category = row[cfg.category_column] if cfg.category_column is not None else None
    return "" if category is None else str(category)
