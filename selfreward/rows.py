"""Rows of data files, one at a time with their numbers, and what is done about those that can't be used."""

from __future__ import annotations

import gzip
import json
import math
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from decimal import Decimal
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from selfreward.errors import ConfigError, DataError, counted, first_line, no_such_file

Made = TypeVar("Made")

Row = tuple[str, Callable[[], Any]]
"""Where a row stands, as people are told, and what reads it: that may raise `RowError`."""

THERE_ALREADY = "is there already"
"""Why a text is left out that is equal to another."""

SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet")

_LOOKED_AT = 100
"""Rows in which a column is looked for before its name is said to be wrong."""

NOT_UTF_8 = "holds text that is not UTF-8"


class RowError(ValueError):
    """A row that can't be used: what is wrong with it, in words that are the same for all such rows."""


class UnusedRowError(ValueError):
    """A row that is sound and not wanted, and why: always counted, never a reason to stop."""


@dataclass
class Skipped:
    """What was left out, counted by reason, and where each reason came up first."""

    counts: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)

    @property
    def said(self) -> str:
        """The reasons with their counts, in brackets; empty where nothing was left out."""
        return f" ({counted(self.counts)})" if self.counts else ""

    def add(self, reason: str, place: str) -> None:
        """Count what stands there."""
        self.counts[reason] += 1
        self.first.setdefault(reason, place)


def collect(
    rows: Iterable[Row],
    parse: Callable[[Any], list[Made]],
    *,
    on_error: str,
    skipped: Skipped,
    columns: Mapping[str, str | None],
    origin: str,
) -> list[tuple[str, Made]]:
    """What `parse` makes of each row of `origin`, with its place. `columns` are those that a row must have, by the
    settings that name them.

    A row for which it raises `RowError`, or that can't be read, stops everything where `on_error` is `raise`, and is
    counted in `skipped` where it is `skip`. One for which it raises `UnusedRowError` is counted.

    Raises `DataError`, and `ConfigError` for a column that none of the first rows has, or a row would be blamed for a
    wrong name.
    """
    made: list[tuple[str, Made]] = []
    rows = iter(rows)
    first = list(islice(rows, _LOOKED_AT))

    def check_names() -> None:
        check_columns(_columns(first), columns, origin)

    for place, read in chain(first, rows):
        try:
            made += [(place, thing) for thing in parse(read())]
        except UnusedRowError as error:
            skipped.add(str(error), place)
        except RowError as error:
            if on_error == "raise":
                if not made:
                    check_names()
                remedy = "mend or remove it, or count such rows and go on: data.on_error=skip"
                raise DataError(f"{place}: {error}; {remedy}") from error
            skipped.add(str(error), place)
    if not made:
        check_names()
    return made


def _columns(rows: Iterable[Row]) -> dict[str, None]:
    """All that any of the rows has; nothing where they have no columns."""
    present: dict[str, None] = {}
    for _, read in rows:
        with suppress(RowError):
            if isinstance(row := read(), dict):
                present |= dict.fromkeys(row)
    return present


def check_columns(
    present: Collection[str], wanted: Mapping[str, str | None], origin: str, remedy: str = "name one of them"
) -> None:
    """Raise `ConfigError` for a setting that names a column which `origin`, if it has any, has not; None names none."""
    for key, column in wanted.items():
        if present and column is not None and column not in present:
            raise ConfigError(key, column, f"{origin} has the columns {', '.join(present)}; {remedy}")


def too_long(most: int) -> str:
    """Why a text is left out that has more characters."""
    return f"has more than {most} characters"


def text_of(row: Any, column: str) -> str:
    """The text in a column, without white space around it.

    Raises `RowError` where the row is no object, and where the column is missing, null, binary, no text, or empty.
    """
    if not isinstance(row, dict):
        raise RowError(f"is a {type(row).__name__}, not an object")
    if column not in row:
        raise RowError(f"has no {column}")
    value = row[column]
    if value is None:
        raise RowError(f"{column} is null")
    if isinstance(value, bytes):
        raise RowError(f"{column} is binary, not text")
    if not isinstance(value, str):
        raise RowError(f"{column} is a {type(value).__name__}, not text")
    if "\x00" in value:
        raise RowError(f"{column} is binary, not text")
    if not value.strip():
        raise RowError(f"{column} is empty")
    return value.strip()


def number_of(row: Any, column: str) -> float:
    """The number in a column. Raises `RowError` where there is none."""
    value = row.get(column) if isinstance(row, dict) else None
    if isinstance(value, (int, float, Decimal)) and not isinstance(value, bool):
        with suppress(OverflowError):
            if math.isfinite(number := float(value)):
                return number
    raise RowError(f"{column} is no number")


def list_of(row: Any, column: str) -> list[Any]:
    """The list in a column. Raises `RowError` where there is none, or nothing in it."""
    value = row.get(column) if isinstance(row, dict) else None
    if not isinstance(value, list) or not value:
        raise RowError(f"{column} is no list with something in it")
    return value


def rows_of(path: Path, key: str, columns: Collection[str] | None = None) -> Iterator[Row]:
    """The rows of a file, read one after the other; of Parquet these columns alone, if all of them are there.

    Raises `ConfigError` for the file that `key` names, where it is missing or of another type.
    """
    if not path.is_file():
        raise no_such_file(key, path)
    if not path.name.endswith(SUFFIXES):
        raise ConfigError(key, path, f"use a file that ends in {', '.join(SUFFIXES)}")
    rows = _parquet(path, columns) if path.suffix == ".parquet" else _lines(path)
    unit = "row" if path.suffix == ".parquet" else "line"
    try:
        yield from ((f"{path.name}, {unit} {number}", read) for number, read in rows)
    except (pa.ArrowInvalid, OSError, EOFError, zlib.error) as error:
        kind = "Parquet" if path.suffix == ".parquet" else "gzip" if path.suffix == ".gz" else "text"
        raise ConfigError(key, path, f"is not a whole {kind} file ({first_line(error)}); name another") from error


def _lines(path: Path) -> Iterator[tuple[int, Callable[[], Any]]]:
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield number, lambda line=line: _decoded(line)


def _decoded(line: bytes) -> Any:
    try:
        row = json.loads(line.decode("utf-8-sig"))  # some editors begin a file with a mark of its encoding
        json.dumps(row, ensure_ascii=False).encode()  # half a surrogate pair is JSON, but no text
    except UnicodeDecodeError as error:
        raise RowError(NOT_UTF_8) from error
    except (ValueError, RecursionError) as error:
        raise RowError("is not JSON text") from error
    return row


def _parquet(path: Path, columns: Collection[str] | None) -> Iterator[tuple[int, Callable[[], Any]]]:
    with pq.ParquetFile(path) as file:
        names = file.schema_arrow.names
        read = [name for name in names if name in columns] if columns and {*columns} <= {*names} else None
        number = 0
        for batch in file.iter_batches(columns=read):
            for place in range(batch.num_rows):
                number += 1
                yield number, partial(_row_at, batch, place)


def _row_at(batch: pa.RecordBatch, place: int) -> dict[str, Any]:
    try:
        return batch.slice(place, 1).to_pylist()[0]
    except UnicodeDecodeError as error:
        raise RowError(NOT_UTF_8) from error
