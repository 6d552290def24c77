"""A pool of prompts: those to train on, those held out for evaluation, and what identifies their source."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Any

from selfreward.config import DataConfig, PromptsConfig
from selfreward.errors import ConfigError
from selfreward.records import Prompt, prompt_id
from selfreward.rows import (
    THERE_ALREADY,
    Row,
    RowError,
    Skipped,
    UnusedRowError,
    check_columns,
    collect,
    text_of,
    too_long,
)
from selfreward.simulation.checks import Check, dump
from selfreward.simulation.final_answer import final_answer
from selfreward.store.identity import Identity, derive_seed

COLUMN_KEYS = ("prompt_column", "category_column", "held_out_column", "answer_column")
"""The settings that name a column, in the order that `SourceIdentity` has them."""

_NEEDED = ("prompts.prompt_column", "prompts.answer_column")
"""Those that every row must have."""

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
    cleaning: Mapping[str, Any]


@dataclass(frozen=True)
class Pool:
    """Distinct prompts, in two parts that share none, and what was left out."""

    source: SourceIdentity
    train: list[Prompt]
    held_out: list[Prompt]
    skipped: Skipped

    @property
    def size(self) -> int | None:
        """How many prompts there are to train on; None where there is no end of them."""
        return len(self.train)

    def check(self, count: int) -> None:
        """Raise `ConfigError` where there are not so many to train on."""
        if self.size == 0:
            fewer = f"mark fewer in {column}" if (column := self.source.held_out_column) else "hold out fewer"
            remedy = f"none is left to train on; {fewer}, or name a source with more"
            raise ConfigError("prompts.held_out", len(self.held_out), remedy)
        if self.size is not None and self.size < count:
            have = f"there are {self.size} prompts to train on beside {len(self.held_out)} held out"
            remedy = f"{have}; use at most that, or let the policy write more: generation=self_instruct"
            raise ConfigError("prompts.per_iteration", count, remedy)

    def select(self, count: int, iteration: int, seed: int) -> list[Prompt]:
        """The prompts of an iteration. None comes again before fewer are left than it takes; then all are shuffled.

        Raises `ConfigError` where there are not so many.
        """
        self.check(count)
        rounds = len(self.train) // count
        cycle, position = divmod(iteration - 1, rounds)
        order = random.Random(derive_seed(seed, "prompts", cycle)).sample(self.train, len(self.train))
        return order[position * count : (position + 1) * count]


@dataclass(frozen=True)
class EndlessPool(Pool):
    """Prompts that are made when they are asked for: `draw` makes one at random. An iteration gets none that is held
    out, or that an earlier one had."""

    draw: Callable[[random.Random], Prompt]

    @property
    def size(self) -> None:
        return None

    def select(self, count: int, iteration: int, seed: int) -> list[Prompt]:
        """The prompts of an iteration. Those of earlier ones are drawn again, so that none of them comes twice."""
        made = {prompt.prompt_id: prompt for prompt in self.held_out}
        for earlier in range(1, iteration + 1):
            chance = derive_seed(seed, "prompts", earlier)
            made |= draw_distinct(self.draw, count, chance, "prompts.per_iteration", made)
        return list(made.values())[-count:]


def draw_distinct(
    draw: Callable[[random.Random], Prompt], count: int, seed: int, key: str, but: Collection[str] = ()
) -> dict[str, Prompt]:
    """So many prompts by id, none of them among those of `but`.

    Raises `ConfigError` for the key that asks for them, where chance finds no new ones.
    """
    generator = random.Random(seed)
    made: dict[str, Prompt] = {}
    misses = 0
    while len(made) < count:
        prompt = draw(generator)
        if prompt.prompt_id in but or prompt.prompt_id in made:
            misses += 1
            if misses > 100 * count:
                raise ConfigError(key, count, f"no more than {len(made)} new prompts are found; ask for fewer in all")
            continue
        made[prompt.prompt_id] = prompt
    return made


def make_pool(rows: Iterable[Row], source: SourceIdentity, cfg: PromptsConfig, data: DataConfig, origin: str) -> Pool:
    """A pool from rows of any columns. A row that is a text alone is one with the prompt alone.

    A prompt's id is a hash of its text, so a text that stands twice is one prompt. Without a held-out column, the
    held-out prompts are those with the smallest ids: a choice that is arbitrary, yet no seed can change it.

    Raises `ConfigError` for a column that isn't there, a pool that is empty, or one that holds out too few, and
    `DataError` for a row that can't be used.
    """
    found: dict[str, Prompt] = {}
    marked: set[str] = set()
    present: dict[str, None] = {}
    skipped = Skipped()

    def take(row: Any) -> list[Prompt]:
        row = {cfg.prompt_column: row} if isinstance(row, str) else row
        if isinstance(row, dict):
            present.update(dict.fromkeys(row))
        text = text_of(row, cfg.prompt_column)
        if len(text) > data.max_characters:
            raise UnusedRowError(too_long(data.max_characters))
        prompt = Prompt(prompt_id(text), text, _category(row, cfg), _check(row, cfg))
        if cfg.held_out_column is not None and row.get(cfg.held_out_column) == "held_out":
            marked.add(prompt.prompt_id)
        if prompt.prompt_id in found:
            raise UnusedRowError(THERE_ALREADY)
        found[prompt.prompt_id] = prompt
        return [prompt]

    named = {f"prompts.{key}": column for key, column in zip(COLUMN_KEYS, columns(cfg), strict=True)}
    needed = {key: named[key] for key in _NEEDED}
    collect(rows, take, on_error=data.on_error, skipped=skipped, columns=needed, origin=origin)
    check_columns(present, named, origin, "name one of them, or null for none")  # what must be there was found
    if not found:
        raise ConfigError(source_key(cfg), origin, f"holds no prompt{skipped.said}; name a source with prompts in it")
    by_id = sorted(found.values(), key=lambda prompt: prompt.prompt_id)
    reserved = [prompt for prompt in by_id if prompt.prompt_id in marked] if cfg.held_out_column else by_id
    held_out = reserved[: cfg.held_out]
    if len(held_out) < cfg.held_out:
        remedy = f"{origin} has {len(reserved)} prompts in all; hold out fewer than that"
        if cfg.held_out_column:
            marks = f"{origin} says held_out of {len(reserved)} prompts in {cfg.held_out_column}"
            remedy = f"{marks}; mark more, ask for fewer, or set prompts.held_out_column=null"
        raise ConfigError("prompts.held_out", cfg.held_out, remedy)
    apart = marked | {prompt.prompt_id for prompt in held_out}
    train = [prompt for prompt in by_id if prompt.prompt_id not in apart]
    return Pool(source, train, held_out, skipped)


def source_key(cfg: PromptsConfig) -> str:
    """The key by which a person named the source."""
    return {"file": "prompts.path", "dataset": "prompts.name"}.get(cfg.kind, "prompts.kind")


def identify(cfg: PromptsConfig, content: str, data: DataConfig | None = None) -> SourceIdentity:
    """The identity of a source with this content, read as `cfg` says; its rows, where it has any, as `data` says."""
    return SourceIdentity(cfg.kind, content, *columns(cfg), cfg.held_out, asdict(data) if data else {})


def columns(cfg: PromptsConfig) -> tuple[str, str | None, str | None, str | None]:
    """The columns that `COLUMN_KEYS` name; None for one that is not."""
    return cfg.prompt_column, cfg.category_column, cfg.held_out_column, cfg.answer_column


def _check(row: Mapping[str, Any], cfg: PromptsConfig) -> str:
    if cfg.answer_column is None:
        return ""
    value = row.get(cfg.answer_column)
    if value is None:
        raise RowError(f"has no {cfg.answer_column}")
    if not isinstance(value, (str, int, float, Decimal)) or value != value:
        raise RowError(f"{cfg.answer_column} is a {type(value).__name__}, neither text nor a number")
    answer = final_answer(str(value))
    if not answer:
        raise RowError(f"{cfg.answer_column} holds no answer")
    return dump([Check("final_answer", {"answer": answer})])


def _category(row: Mapping[str, Any], cfg: PromptsConfig) -> str:
    category = row.get(cfg.category_column) if cfg.category_column is not None else None
    return "" if category is None else str(category)
