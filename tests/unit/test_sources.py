"""Prompts are read from where people keep them."""

from __future__ import annotations

import gzip
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from selfreward.config import DataConfig
from selfreward.errors import ConfigError, DataError
from selfreward.records import Prompt
from selfreward.sources import SOURCES
from selfreward.sources.pool import draw_distinct
from tests.unit.prompt_files import COLOURS, jsonl, load, pool_of, settings, texts

# What can be read


def test_of_jsonl_objects_the_prompt_may_stand_in_any_column(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "p.jsonl", [{"text": colour, "topic": colour.upper(), "more": 1} for colour in COLOURS])
    pool = load(path, prompt_column="text", category_column="topic")
    assert texts(pool) == sorted(COLOURS)
    assert {p.prompt: p.category for p in pool.train + pool.held_out} == {c: c.upper() for c in COLOURS}


def test_jsonl_lines_that_are_bare_strings_count_as_prompts_and_blank_lines_as_nothing(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('"red"\n\n"green"\n   \n"blue"')
    pool = load(path)
    assert texts(pool) == ["blue", "green", "red"]
    assert not pool.skipped.counts


@pytest.mark.parametrize("extra", [{}, {"embedding": [[0.1], [0.2], [0.3], [0.4]]}], ids=["alone", "beside others"])
def test_a_column_of_parquet_marks_what_is_held_out(tmp_path: Path, extra: dict[str, Any]) -> None:
    path = tmp_path / "p.parquet"
    pq.write_table(pa.table({"text": COLOURS, "part": ["held_out", "train", "held_out", "train"]} | extra), path)
    pool = load(path, prompt_column="text", held_out_column="part", held_out=2)
    assert sorted(prompt.prompt for prompt in pool.held_out) == ["blue", "red"]
    assert sorted(prompt.prompt for prompt in pool.train) == ["cyan", "green"]


def test_each_split_of_a_local_data_set_is_a_source_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "data"
    folder.mkdir()
    jsonl(folder / "train.jsonl", [{"text": colour} for colour in COLOURS])
    jsonl(folder / "test.jsonl", [{"text": "white"}, {"text": "black"}])
    changes = {"kind": "dataset", "name": str(folder), "prompt_column": "text"}
    train, test = load(folder, **changes), load(folder, **changes, split="test")
    assert (texts(train), texts(test)) == (sorted(COLOURS), ["black", "white"])
    assert train.source != test.source
    with pytest.raises(ConfigError, match=r"prompts\.name=.*split nowhere can't be loaded"):
        load(folder, **changes, split="nowhere")


def test_each_subset_of_a_data_set_is_a_source_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    subsets = {"warm": ["red", "orange"], "cold": ["blue", "green"]}
    card = "---\nconfigs:\n"
    for name, colours in subsets.items():
        jsonl(tmp_path / f"{name}.jsonl", [{"text": colour} for colour in colours])
        card += f"- config_name: {name}\n  data_files: {name}.jsonl\n"
    (tmp_path / "README.md").write_text(f"{card}---\n")
    changes = {"kind": "dataset", "name": str(tmp_path), "prompt_column": "text"}
    warm, cold = load(tmp_path, **changes, subset="warm"), load(tmp_path, **changes, subset="cold")
    assert (texts(warm), texts(cold)) == (["orange", "red"], ["blue", "green"])
    assert warm.source != cold.source
    with pytest.raises(ConfigError, match=r"subset mild, split train can't be loaded .* check prompts\.subset and"):
        load(tmp_path, **changes, subset="mild")


# What can't be used


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.jsonl", b"", "prompts.path=p.jsonl: holds no prompt; name a source with prompts in it"),
        ("p.jsonl", b'{"text": "red", "id": 1}\n', "prompts.prompt_column=prompt: p.jsonl has the columns text, id;"),
        ("p.parquet", b"not parquet", "prompts.path=.*: is not a whole Parquet file"),
        ("p.jsonl.gz", gzip.compress(b'"red"\n' * 9, mtime=0)[:-9], "prompts.path=.*: is not a whole gzip file"),
        ("p.csv", b"prompt\nred\n", "prompts.path=.*: use a file that ends in .jsonl, .jsonl.gz, .parquet"),
    ],
)
def test_a_file_that_can_not_be_used_is_an_error_that_says_what_is_wrong(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        load(tmp_path / name)


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        (b"not json", "is not JSON text"),
        (b'"caf\xe9"', "holds text that is not UTF-8"),
        (b'"\\ud800"', "is not JSON text"),
        pytest.param(b"[" * 100_000, "is not JSON text", id="deeply nested"),
        (b"[1]", "is a list, not an object"),
        (b"null", "is a NoneType, not an object"),
        (b'{"text": "red"}', "has no prompt"),
        (b'{"prompt": null}', "prompt is null"),
        (b'{"prompt": 7}', "prompt is a int, not text"),
        (b'{"prompt": ["red"]}', "prompt is a list, not text"),
        (b'{"prompt": " "}', "prompt is empty"),
        (b'"PK\\u0000"', "prompt is binary, not text"),
    ],
)
def test_a_line_that_can_not_be_used_stops_with_its_number_or_is_counted(
    tmp_path: Path, line: bytes, wrong: str
) -> None:
    path = tmp_path / "p.jsonl"
    path.write_bytes(b'"red"\n\n' + line + b'\n"green"\n')
    with pytest.raises(DataError, match=f"^p.jsonl, line 3: {wrong}; mend or remove it, .*data.on_error=skip$"):
        load(path)
    pool = load(path, on_error="skip")
    assert texts(pool) == ["green", "red"]
    assert (pool.skipped.counts, pool.skipped.first) == ({wrong: 1}, {wrong: "p.jsonl, line 3"})


def test_binary_and_missing_values_of_parquet_are_named_by_their_row(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    pq.write_table(pa.table({"prompt": pa.array(["red", None, "green"])}), path)
    with pytest.raises(DataError, match=r"^p.parquet, row 2: prompt is null; "):
        load(path)
    assert load(path, on_error="skip").skipped.counts == {"prompt is null": 1}
    pq.write_table(pa.table({"prompt": [b"\x00\x01"]}), path)
    with pytest.raises(DataError, match=r"^p.parquet, row 1: prompt is binary, not text; "):
        load(path)


def test_parquet_text_in_another_encoding_is_named_by_its_row(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    text = pa.array([b"red", b"caf\xe9", b"green"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"prompt": text}), path)
    with pytest.raises(DataError, match=r"^p.parquet, row 2: holds text that is not UTF-8; "):
        load(path)
    assert texts(load(path, on_error="skip")) == ["green", "red"]


def test_a_mark_of_the_encoding_at_the_beginning_of_a_file_is_no_part_of_its_text(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('"red"\n"green"\n', encoding="utf-8-sig")
    assert texts(load(path)) == ["green", "red"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"path": None}, "prompts.path=null: name a file that ends in .jsonl, .jsonl.gz, .parquet"),
        ({"path": "/nowhere/p.jsonl"}, r"prompts.path=/nowhere/p.jsonl: there is no such file \(looked in /nowhere\)"),
        ({"kind": "dataset", "name": None}, "prompts.name=null: name a data set"),
        ({"kind": "dataset", "name": "owner/name"}, "prompts.revision=null: name the commit of owner/name"),
        (
            {"kind": "dataset", "name": "owner/name", "revision": "main"},
            "prompts.revision=main: name the commit of owner/name, 40 hexadecimal digits",
        ),
    ],
)
def test_a_source_that_is_not_there_or_not_pinned_is_an_error_that_names_the_key(
    changes: dict[str, Any], message: str
) -> None:
    cfg = settings(**changes)
    with pytest.raises(ConfigError, match=message):
        SOURCES[cfg.kind](cfg, DataConfig())


@pytest.mark.parametrize(
    ("key", "else_"),
    [("prompt_column", ""), ("category_column", ", or null for none"), ("held_out_column", ", or null for none")],
)
@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_a_column_that_is_not_there_is_an_error_that_names_those_that_are(
    tmp_path: Path, key: str, else_: str, suffix: str
) -> None:
    path = tmp_path / f"p.{suffix}"
    if suffix == "jsonl":
        jsonl(path, [{"prompt": colour, "topic": "colours"} for colour in COLOURS])
    else:
        pq.write_table(pa.table({"prompt": COLOURS, "topic": ["colours"] * 4}), path)
    with pytest.raises(
        ConfigError,
        match=rf"prompts\.{key}=nowhere: p.{suffix} has the columns prompt, topic; name one of them{else_}$",
    ):
        load(path, **{key: "nowhere"})


def test_a_column_that_some_rows_lack_is_no_error_whichever_comes_first(tmp_path: Path) -> None:
    rows = [{"prompt": "red"}, {"prompt": "green", "topic": "colours"}]
    for place, order in enumerate((rows, rows[::-1])):
        pool = load(jsonl(tmp_path / f"{place}.jsonl", order), category_column="topic", held_out=0)
        assert {prompt.prompt: prompt.category for prompt in pool.train} == {"red": "", "green": "colours"}


def test_a_first_row_without_a_prompt_is_counted_like_any_other(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "p.jsonl", [{"meta": 1}, {"prompt": "red"}, {"prompt": "green"}])
    pool = load(path, on_error="skip")
    assert (texts(pool), pool.skipped.counts) == (["green", "red"], {"has no prompt": 1})
    with pytest.raises(ConfigError, match=r"prompts\.prompt_column=nowhere: p.jsonl has the columns meta, prompt;"):
        load(path, on_error="skip", prompt_column="nowhere")


@pytest.mark.parametrize("answer", ["", " ", "It is so.\n#### "])
def test_a_right_answer_that_is_empty_stops_or_is_counted(tmp_path: Path, answer: str) -> None:
    rows = [{"prompt": "6 * 7?", "answer": "42"}, {"prompt": "6 * 8?", "answer": answer}]
    path = jsonl(tmp_path / "p.jsonl", rows)
    with pytest.raises(DataError, match=r"^p.jsonl, line 2: answer holds no answer; "):
        load(path, answer_column="answer")
    assert texts(load(path, on_error="skip", answer_column="answer", held_out=0)) == ["6 * 7?"]


@pytest.mark.parametrize("answer", [["Paris", "paris"], {"text": "Paris"}, float("nan")])
def test_a_right_answer_that_no_text_could_equal_stops_or_is_counted(tmp_path: Path, answer: Any) -> None:
    rows = [{"prompt": "6 * 7?", "answer": 42}, {"prompt": "The capital?", "answer": answer}]
    path = jsonl(tmp_path / "p.jsonl", rows)
    wrong = f"answer is a {type(answer).__name__}, neither text nor a number"
    with pytest.raises(DataError, match=f"^p.jsonl, line 2: {wrong}; "):
        load(path, answer_column="answer")
    assert load(path, on_error="skip", answer_column="answer", held_out=0).skipped.counts == {wrong: 1}


def test_prompts_that_are_all_held_out_are_an_error_that_names_the_key() -> None:
    with pytest.raises(ConfigError, match=r"prompts\.held_out=4: none is left to train on; hold out fewer"):
        pool_of(COLOURS, held_out=4).check(1)


def test_a_first_row_that_lacks_a_column_is_named_and_not_the_column(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "p.jsonl", [{"topic": "colours"}, {"prompt": "red"}])
    with pytest.raises(DataError, match=r"^p.jsonl, line 1: has no prompt; mend or remove it"):
        load(path)


def test_a_column_that_marks_too_few_prompts_is_named_with_its_word(tmp_path: Path) -> None:
    rows = [{"prompt": "red", "split": "test"}, {"prompt": "green", "split": "held_out"}]
    path = jsonl(tmp_path / "p.jsonl", rows)
    message = r"prompts\.held_out=2: p.jsonl says held_out of 1 prompts in split; mark more, ask for fewer, or set "
    with pytest.raises(ConfigError, match=message):
        load(path, held_out_column="split", held_out=2)


def test_more_prompts_an_iteration_than_there_are_is_an_error_that_says_how_many_there_are() -> None:
    pool = pool_of(COLOURS)
    pool.check(3)
    with pytest.raises(
        ConfigError, match=r"prompts\.per_iteration=4: there are 3 prompts to train on beside 1 held out; .*generation="
    ):
        pool.select(4, 1, seed=0)


def test_more_drawn_prompts_than_chance_finds_is_an_error_that_names_the_key_that_asks_for_them() -> None:
    def draw(generator: Random) -> Prompt:
        text = generator.choice(COLOURS)
        return Prompt(text, text, "")

    with pytest.raises(ConfigError, match=r"prompts\.held_out=5: no more than 4 new prompts are found; ask for fewer"):
        draw_distinct(draw, 5, 0, "prompts.held_out")


def test_more_held_out_prompts_than_there_are_is_an_error_that_says_how_many_there_are() -> None:
    with pytest.raises(ConfigError, match=r"prompts\.held_out=5: here has 4 prompts in all; hold out fewer than that"):
        pool_of(COLOURS, held_out=5)
