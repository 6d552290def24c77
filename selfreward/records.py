"""The rows that stages hand to each other, and the Arrow schemas that they are stored under.

A record is a frozen dataclass; its Arrow schema is derived from its annotations, so the two can't disagree.
"""

from __future__ import annotations

import dataclasses
import hashlib
import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar, Union

import pyarrow as pa


@dataclass(frozen=True, slots=True)
class Prompt:
    """An instruction to answer. `check` is what code can hold an answer against (`simulation`); empty for nothing."""

    prompt_id: str
    prompt: str
    category: str
    check: str = ""


@dataclass(frozen=True, slots=True)
class Proposal:
    """A prompt that a policy wrote: what was read from its answer, the prompts it was shown, and whether it came to an
    end."""

    text: str
    shown: list[str]
    finished: bool


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of a document, in its order, `held_out` where it is kept to measure by."""

    chunk_id: str
    document: str
    text: str
    tokens: int
    held_out: bool


@dataclass(frozen=True, slots=True)
class Rephrasing:
    """A chunk in a policy's words. `left_out` says why it is not used; empty where it is. `numbers` and `names` are the
    shares of the chunk's that it has too, None where the chunk has none."""

    chunk_id: str
    style: str
    text: str
    left_out: str
    numbers: float | None
    names: float | None


@dataclass(frozen=True, slots=True)
class Demonstration:
    """A prompt and a person's answer to it."""

    prompt_id: str
    prompt: str
    response: str


@dataclass(frozen=True, slots=True)
class Rating:
    """An answer and what people thought of it, `score` from 0 to 5. A `group` is what answers share that were ranked
    with each other alone: their scores say nothing beside those of another group."""

    prompt_id: str
    prompt: str
    response: str
    score: float
    group: str = ""

    def is_comparable(self, other: Rating) -> bool:
        """Whether people's scores tell which of two answers to a prompt is better."""
        return self.group == other.group and self.score != other.score

    def as_candidate(self, index: int = 0) -> Candidate:
        """The answer as a judge is shown it."""
        return Candidate(self.prompt_id, self.prompt, index, self.response, [], [], [], finished=True)


@dataclass(frozen=True, slots=True)
class Candidate:
    """One answer of a policy to a prompt.

    `prompt_ids` are the tokens that the policy saw, `token_ids` those that it sampled (with the end-of-turn token
    where `finished`), and `logprobs` the log-probability of each, in nats, under the untempered policy. `category` and
    `check` are the prompt's.
    """

    prompt_id: str
    prompt: str
    index: int
    text: str
    prompt_ids: list[int]
    token_ids: list[int]
    logprobs: list[float]
    finished: bool
    category: str = ""
    check: str = ""


@dataclass(frozen=True, slots=True)
class Judgement:
    """A judge's view of one candidate.

    `score` is None where no verdict could be read. `samples` are the scores it is the mean of, `replies` the texts
    they were read from (empty where the score was read from the next-token distribution), and `score_mass` the
    probability that fell on score tokens (None where replies were sampled).
    """

    prompt_id: str
    index: int
    score: float | None
    samples: list[float]
    replies: list[str]
    score_mass: float | None


@dataclass(frozen=True, slots=True)
class PreferencePair:
    """Two candidates of one prompt, the chosen one scored above the rejected one."""

    prompt_id: str
    prompt: str
    prompt_ids: list[int]
    chosen_index: int
    chosen_ids: list[int]
    chosen_logprobs: list[float]
    chosen_score: float
    rejected_index: int
    rejected_ids: list[int]
    rejected_logprobs: list[float]
    rejected_score: float


@dataclass(frozen=True, slots=True)
class ReferenceLogprobs:
    """Of a pair, the log-probability of each completion token under the reference policy, in nats."""

    prompt_id: str
    chosen_index: int
    rejected_index: int
    chosen: list[float]
    rejected: list[float]


@dataclass(frozen=True, slots=True)
class Comparison:
    """A policy's answer to a held-out prompt against the baseline policy's answer to it.

    `preference` is the judge's probability that the policy's answer is the better one, averaged over both orders;
    `preference_first` and `preference_second` are those of the orders that show it first and second. `choice_mass` is
    the probability that fell on naming either answer, over both orders.
    """

    prompt_id: str
    prompt: str
    text: str
    tokens: int
    score: float | None
    baseline_text: str
    baseline_tokens: int
    preference_first: float
    preference_second: float
    choice_mass: float

    @property
    def preference(self) -> float:
        return (self.preference_first + self.preference_second) / 2

    @property
    def win(self) -> float:
        """1 where the policy's answer is preferred, 0 where the baseline's is, a half where they are equal."""
        if self.text == self.baseline_text or self.preference == 0.5:
            return 0.5
        return float(self.preference > 0.5)


Record = TypeVar(
    "Record",
    Prompt,
    Proposal,
    Chunk,
    Rephrasing,
    Demonstration,
    Rating,
    Candidate,
    Judgement,
    PreferencePair,
    ReferenceLogprobs,
    Comparison,
)

_ARROW = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}


def prompt_id(text: str) -> str:
    """A prompt's id: equal texts are one prompt."""
    return hashlib.sha256(text.strip().encode()).hexdigest()[:12]


@cache
def schema(record: type[Any]) -> pa.Schema:
    """The Arrow schema of a record type, one column a field."""
    hints = typing.get_type_hints(record)
    return pa.schema([_column(field.name, hints[field.name]) for field in dataclasses.fields(record)])


def to_table(records: Sequence[Any], record: type[Any]) -> pa.Table:
    """Records as an Arrow table of `schema(record)`."""
    columns = {f.name: [getattr(row, f.name) for row in records] for f in dataclasses.fields(record)}
    return pa.table(columns, schema=schema(record))


def from_table(table: pa.Table, record: type[Record]) -> list[Record]:
    """An Arrow table's rows as records."""
    return [record(**row) for row in table.to_pylist()]


def _column(name: str, hint: Any) -> pa.Field:
    nullable = False
    if typing.get_origin(hint) in (Union, types.UnionType):
        (hint,) = (part for part in typing.get_args(hint) if part is not type(None))
        nullable = True
    if typing.get_origin(hint) is list:
        (item,) = typing.get_args(hint)
        return pa.field(name, pa.list_(pa.field("item", _ARROW[item], nullable=False)), nullable=nullable)
    return pa.field(name, _ARROW[hint], nullable=nullable)
