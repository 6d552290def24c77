"""What people wrote and can't be used is named by its line, or counted; some is kept apart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from selfreward.errors import ConfigError, DataError
from tests.unit.seed_files import demonstrations, jsonl, ratings, reply, tree

GOOD = {"prompt": "Name a colour.", "response": "Red.", "score": 4}

MALFORMED: list[tuple[str, dict[str, Any], Any, str]] = [
    ("not an object", {}, 7, "is a int, not an object"),
    ("missing", {}, {"prompt": "Hi"}, "has no response"),
    ("null", {}, GOOD | {"response": None}, "response is null"),
    ("a number", {}, GOOD | {"response": 5}, "response is a int, not text"),
    ("a list", {}, GOOD | {"response": ["a"]}, "response is a list, not text"),
    ("empty", {}, GOOD | {"prompt": " \n"}, "prompt is empty"),
    ("binary", {}, GOOD | {"response": "PK\x00\x04"}, "response is binary, not text"),
    ("no score", {}, GOOD | {"score": "high"}, "score is no number"),
    ("no number", {}, GOOD | {"score": float("nan")}, "score is no number"),
    ("beyond all numbers", {}, GOOD | {"score": 10**400}, "score is no number"),
    ("out of range", {}, GOOD | {"score": 6}, "a score is not between 0 and 5"),
    (
        "no answers",
        {"format": "groups"},
        {"prompt": "Hi", "responses": []},
        "responses is no list with something in it",
    ),
    (
        "a rank alone",
        {"format": "groups"},
        {"prompt": "Hi", "responses": [{"response": "Yes.", "rank": 0}]},
        "has a rank without siblings",
    ),
    (
        "ranks alike",
        {"format": "groups"},
        {"prompt": "Hi", "responses": [{"response": "a", "rank": 0}, {"response": "b", "rank": 0}]},
        "ranks all answers alike",
    ),
    (
        "turns of one person",
        {},
        GOOD | {"prompt": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]},
        "its turns do not alternate between user and assistant, from user to user",
    ),
    ("a tree alone", {"format": "oasst"}, tree([reply("Red.", 0)]), "has a rank without siblings"),
    (
        "a tree that does not alternate",
        {"format": "oasst"},
        tree([reply("Red.", 0, role="prompter")]),
        "its turns do not alternate: a message of prompter where one of assistant belongs",
    ),
    (
        "an answer of a tree that is null",
        {"format": "oasst"},
        tree([None]),
        "its turns do not alternate: a message of None where one of assistant belongs",
    ),
    ("no tree", {"format": "oasst"}, {"prompt": "Hi"}, "has no message tree under prompt"),
    (
        "a dialogue that does not alternate",
        {"format": "hh"},
        {"chosen": "\n\nHuman: a\n\nHuman: b", "rejected": "\n\nHuman: a\n\nAssistant: b"},
        "its turns do not alternate between Human and Assistant",
    ),
    (
        "a dialogue without a request",
        {"format": "hh"},
        {"chosen": "\n\nHuman: \n\nAssistant: b", "rejected": "\n\nHuman: \n\nAssistant: c"},
        "its first request is empty",
    ),
    (
        "a dialogue without an answer",
        {"format": "hh"},
        {"chosen": "\n\nHuman: a\n\nAssistant: ", "rejected": "\n\nHuman: a\n\nAssistant: b"},
        "its answer is empty",
    ),
    (
        "answers to two requests",
        {"format": "hh"},
        {"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: c\n\nAssistant: d"},
        "chosen and rejected answer different requests",
    ),
    (
        "a grade out of range",
        {"format": "ultrafeedback"},
        {"instruction": "Hi", "completions": [{"response": "a", "overall_score": 11}]},
        "a score is not between 1 and 10",
    ),
]

NOT_TAKEN: list[tuple[str, dict[str, Any], Any, str]] = [
    ("another language", {"format": "oasst"}, tree([reply("Rot.", 0), reply("Blau.", 1)], lang="de"), "is not English"),
    (
        "no ranks",
        {"format": "oasst"},
        tree([reply("Red.", None), reply("Blue.", None)]),
        "has no answer that is ranked",
    ),
    (
        "siblings that are deleted",
        {"format": "oasst"},
        tree([reply("Red.", 0), reply("Blue.", 1) | {"deleted": True}]),
        "has one ranked answer left",
    ),
    (
        "several turns",
        {"format": "hh"},
        dict.fromkeys(("chosen", "rejected"), "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: d"),
        "is a dialogue of several turns",
    ),
]


def good(reading: dict[str, Any]) -> dict[str, Any]:
    """A row of this form that can be used."""
    known = {
        "groups": {"prompt": "Hi", "responses": [{"response": "a", "rank": 0}, {"response": "b", "rank": 1}]},
        "oasst": tree([reply("Red.", 0), reply("Stone.", 1)]),
        "hh": {"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: a\n\nAssistant: c"},
        "ultrafeedback": {"instruction": "Hi", "completions": [{"response": "a", "overall_score": 5}]},
    }
    return known.get(reading.get("format", ""), GOOD)


@pytest.mark.parametrize(("reading", "row", "wrong"), [case[1:] for case in MALFORMED], ids=[c[0] for c in MALFORMED])
def test_a_row_that_can_not_be_used_stops_with_its_line_or_is_counted(
    tmp_path: Path, reading: dict[str, Any], row: Any, wrong: str
) -> None:
    path = jsonl(tmp_path, good(reading), row)
    with pytest.raises(DataError) as caught:
        ratings(path, **reading)
    remedy = "mend or remove it, or count such rows and go on: data.on_error=skip"
    assert str(caught.value) == f"people.jsonl, line 2: {wrong}; {remedy}"
    skipped = ratings(path, on_error="skip", **reading).skipped
    assert (skipped.counts, skipped.first) == ({wrong: 1}, {wrong: "people.jsonl, line 2"})


@pytest.mark.parametrize(("reading", "row", "why"), [case[1:] for case in NOT_TAKEN], ids=[c[0] for c in NOT_TAKEN])
def test_a_sound_row_that_is_not_wanted_never_stops_and_is_counted(
    tmp_path: Path, reading: dict[str, Any], row: Any, why: str
) -> None:
    (counted,) = ratings(jsonl(tmp_path, good(reading), row), **reading).skipped.counts.items()
    assert counted[0].startswith(why) and counted[1] == 1


PARQUET: list[tuple[str, Any, str]] = [
    ("null", None, "prompt is null"),
    ("empty", " ", "prompt is empty"),
    ("turns of one person", [{"role": "assistant", "content": "a"}], "its turns do not alternate between user and "),
    ("no turns", [], "prompt is no list with something in it"),
]


@pytest.mark.parametrize(("value", "wrong"), [case[1:] for case in PARQUET], ids=[case[0] for case in PARQUET])
def test_rows_of_parquet_are_looked_at_like_lines(tmp_path: Path, value: Any, wrong: str) -> None:
    path = tmp_path / "people.parquet"
    first = [{"role": "user", "content": "Hi"}] if isinstance(value, list) else "Hi"
    pq.write_table(pa.table({"prompt": [first, value], "response": ["Yes."] * 2, "score": [1, 2]}), path)
    with pytest.raises(DataError, match=f"^people.parquet, row 2: {wrong}"):
        ratings(path)
    ((reason, count),) = ratings(path, on_error="skip").skipped.counts.items()
    assert reason.startswith(wrong) and count == 1


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        (b'{"prompt": "Hi"', "is not JSON text"),
        (b"\xff\xfe", "holds text that is not UTF-8"),
        (b'"\\ud800"', "is not JSON text"),
    ],
    ids=["cut off", "bytes", "half a pair"],
)
def test_a_line_that_is_no_json_text_is_named(tmp_path: Path, line: bytes, wrong: str) -> None:
    path = tmp_path / "people.jsonl"
    path.write_bytes(json.dumps(GOOD).encode() + b"\n\n" + line + b"\n")
    with pytest.raises(DataError, match=f"^people.jsonl, line 3: {wrong}; "):
        ratings(path)
    assert ratings(path, on_error="skip").skipped.counts == {wrong: 1}


def test_binary_columns_of_parquet_are_named_by_their_row(tmp_path: Path) -> None:
    path = tmp_path / "people.parquet"
    pq.write_table(pa.table({"prompt": ["Hi"], "response": [b"\x00\x01"], "score": [1]}), path)
    with pytest.raises(DataError, match=r"^people.parquet, row 1: response is binary, not text; "):
        ratings(path)


def test_what_is_there_twice_or_too_long_is_left_out_and_counted(tmp_path: Path) -> None:
    path = jsonl(tmp_path, GOOD, GOOD | {"prompt": " Name a colour. "}, GOOD | {"response": "x" * 30_000})
    found = demonstrations(path)
    assert len(found.train) == 1
    assert found.skipped.counts == {"is there already": 1, "has more than 20000 characters": 1}
    assert found.skipped.first["is there already"] == "people.jsonl, line 2"


def test_an_answer_that_is_rated_in_two_ways_says_nothing_and_is_counted(tmp_path: Path) -> None:
    path = jsonl(tmp_path, GOOD, GOOD | {"score": 0}, GOOD | {"response": "Blue."})
    found = ratings(path)
    assert [rating.response for rating in found.train] == ["Blue."]
    assert found.skipped.counts == {"is rated in two ways": 2}


def test_ranks_that_are_null_are_none_beside_scores(tmp_path: Path) -> None:
    answers = [{"response": "a", "score": 1, "rank": None}, {"response": "b", "score": 4, "rank": None}]
    found = ratings(jsonl(tmp_path, {"prompt": "Hi", "responses": answers}), format="groups")
    assert [rating.score for rating in found.train] == [1, 4]


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("nowhere.jsonl", r"^tuning.ratings.path=.*nowhere.jsonl: there is no such file \(looked in "),
        ("people.csv", r"^tuning.ratings.path=.*people.csv: use a file that ends in .jsonl, .jsonl.gz, .parquet"),
        ("people.parquet", r"^tuning.ratings.path=.*: is not a whole Parquet file "),
    ],
)
def test_a_file_that_can_not_be_read_is_named(tmp_path: Path, name: str, wrong: str) -> None:
    if name != "nowhere.jsonl":
        (tmp_path / name).write_text("prompt,response\n")
    with pytest.raises(ConfigError, match=wrong):
        ratings(tmp_path / name)


def test_more_prompts_held_out_than_there_are_is_an_error_that_says_how_many_there_are(tmp_path: Path) -> None:
    path = jsonl(tmp_path, *(GOOD | {"prompt": f"Question {i}?"} for i in range(3)))
    with pytest.raises(
        ConfigError, match=r"^tuning.ratings.held_out=3: the file has 3 prompts, and none would be left"
    ):
        ratings(path, held_out=3)


def test_a_file_without_anything_to_learn_from_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing to learn from is left of 0 answers; name another file"):
        ratings(jsonl(tmp_path))


@pytest.mark.parametrize("on_error", ["raise", "skip"])
@pytest.mark.parametrize(
    ("row", "reading", "message"),
    [
        ({"instruction": "Hi", "output": "Yes."}, {}, "prompt_column=prompt"),
        ({"prompt": "Hi", "output": "Yes."}, {}, "response_column=response"),
        ({"prompt": "Hi", "response": "Yes.", "grade": 4}, {}, "score_column=score"),
        ({"prompt": "Hi", "answers": []}, {"format": "groups"}, "responses_column=responses"),
    ],
)
def test_a_column_that_is_not_there_is_named_and_no_row_blamed_for_it(
    tmp_path: Path, row: dict[str, Any], reading: dict[str, Any], message: str, on_error: str
) -> None:
    there = f"people.jsonl has the columns {', '.join(row)}; name one of them"
    with pytest.raises(ConfigError, match=rf"^tuning\.ratings\.{message}: {there}$"):
        ratings(jsonl(tmp_path, row), on_error=on_error, **reading)
