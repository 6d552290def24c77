"""Records survive the way through Arrow unchanged, and their schemas say what may be missing."""

from __future__ import annotations

import dataclasses
import io
import typing
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfreward import records
from selfreward.records import (
    Candidate,
    Comparison,
    Prompt,
    from_table,
    schema,
    to_table,
)

RECORDS = [kind for kind in vars(records).values() if isinstance(kind, type) and dataclasses.is_dataclass(kind)]
VALUES = {
    str: st.text(),
    int: st.integers(-(2**63), 2**63 - 1),
    float: st.floats(allow_nan=False),
    bool: st.booleans(),
    list[int]: st.lists(st.integers(0, 200_000), max_size=5),
    list[float]: st.lists(st.floats(allow_nan=False), max_size=5),
    list[str]: st.lists(st.text(), max_size=3),
    int | None: st.none() | st.integers(-(2**63), 2**63 - 1),
    float | None: st.none() | st.floats(allow_nan=False),
}


def _rows(record: type[Any]) -> st.SearchStrategy[list[Any]]:
    hints = typing.get_type_hints(record)
    return st.lists(
        st.builds(record, **{f.name: VALUES[hints[f.name]] for f in dataclasses.fields(record)}), max_size=3
    )


@settings(max_examples=25)
@given(st.data())
@pytest.mark.parametrize("record", RECORDS)
def test_records_come_back_from_parquet_as_they_were(record: type[Any], data: st.DataObject) -> None:
    rows = data.draw(_rows(record))
    buffer = io.BytesIO()
    pq.write_table(to_table(rows, record), buffer)
    assert from_table(pq.read_table(buffer), record) == rows


@pytest.mark.parametrize("record", RECORDS)
def test_a_schema_has_one_column_a_field_in_the_order_of_the_fields(record: type[Any]) -> None:
    assert schema(record).names == [field.name for field in dataclasses.fields(record)]


def test_only_what_may_be_missing_is_nullable() -> None:
    nullable = {
        f"{record.__name__}.{column.name}" for record in RECORDS for column in schema(record) if column.nullable
    }
    assert nullable == {
        "Judgement.score",
        "Judgement.score_mass",
        "Comparison.score",
        "Rephrasing.numbers",
        "Rephrasing.names",
    }


def test_lists_hold_no_nulls() -> None:
    lists = [column.type for record in RECORDS for column in schema(record) if pa.types.is_list(column.type)]
    assert lists
    assert not any(kind.value_field.nullable for kind in lists)


def test_tokens_are_64_bit_integers_and_log_probabilities_64_bit_floats() -> None:
    assert schema(Candidate).field("token_ids").type.value_type == pa.int64()
    assert schema(Candidate).field("logprobs").type.value_type == pa.float64()


def test_a_missing_value_can_not_be_stored_where_none_may_be_missing() -> None:
    text: Any = None
    with pytest.raises(pa.ArrowInvalid, match="category"):
        pq.write_table(to_table([Prompt("id", "text", text)], Prompt), io.BytesIO())


def test_a_record_can_not_be_changed() -> None:
    prompt: Any = Prompt("id", "text", "category")
    with pytest.raises(dataclasses.FrozenInstanceError):
        prompt.prompt = "another"


@given(st.floats(0, 1), st.floats(0, 1))
def test_a_preference_is_the_mean_of_both_orders(first: float, second: float) -> None:
    comparison = Comparison("id", "prompt", "text", 1, None, "other", 1, first, second, 0.9)
    assert comparison.preference == pytest.approx((first + second) / 2)
