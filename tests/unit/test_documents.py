"""Documents are read, cut into chunks that lose nothing, and what a policy makes of them is cleaned and looked at."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfreward.config import DocumentsConfig
from selfreward.documents.chunks import cut_document
from selfreward.documents.read import documents_content, read_documents
from selfreward.documents.rephrase import STYLES, Kept, build_message, clean, kept, questions, reason_against, styles
from selfreward.errors import ConfigError, DataError

SENTENCES = st.lists(
    st.lists(st.sampled_from(["a", "bird", "12", "saw", "the", "Old", "house"]), min_size=1, max_size=12), max_size=8
)


def words(text: str) -> int:
    return len(text.split())


# Cutting


@given(SENTENCES, st.integers(1, 20), st.booleans())
def test_chunks_fit_and_together_are_the_text(sentences: list[list[str]], most: int, apart: bool) -> None:
    text = ("\n\n" if apart else " ").join(f"{' '.join(sentence).capitalize()}." for sentence in sentences)
    chunks = cut_document(text, most, words)
    assert all(words(chunk) <= most for chunk in chunks)
    assert " ".join(" ".join(chunks).split()) == " ".join(text.split())


def test_a_chunk_ends_where_a_sentence_does_and_paragraphs_stay_apart() -> None:
    text = "One two three. Four five.\n\nSix seven. Eight nine ten eleven twelve thirteen."
    assert cut_document(text, 7, words) == [
        "One two three. Four five.\n\nSix seven.",
        "Eight nine ten eleven twelve thirteen.",
    ]


def test_a_sentence_that_is_too_long_is_cut_between_words() -> None:
    assert cut_document("a b c d e f g", 3, words) == ["a b c", "d e", "f g"]


def test_sentences_of_chinese_end_at_their_own_marks_and_nothing_comes_between_them() -> None:
    text = "猫会游泳。狗会跳吗？“会！”他说。"
    assert cut_document(text, 10, len) == ["猫会游泳。狗会跳吗？", "“会！”他说。"]
    assert "".join(cut_document(text, 4, len)) == text


def test_a_word_that_is_too_long_by_itself_is_cut_too() -> None:
    assert cut_document("abcdefgh ij", 3, len) == ["ab", "cd", "ef", "gh", "ij"]


@given(st.lists(st.text(alphabet="ab漢", min_size=1, max_size=12), min_size=1, max_size=6), st.integers(1, 9))
def test_a_word_s_parts_are_not_put_apart_where_they_meet_in_a_chunk(words: list[str], most: int) -> None:
    text = " ".join(words)
    assert "".join(cut_document(text, most, lambda part: len(part.encode()))).replace(" ", "") == "".join(words)
    assert all(piece in text for piece in cut_document(text, max(most, 3), lambda part: len(part.encode())))


# Reading


def test_a_folder_of_texts_and_a_file_of_them(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "b.md").write_text("Second.")
    (tmp_path / "a.txt").write_text(" First. \n")
    (tmp_path / "a copy.txt").write_text("First.")
    (tmp_path / "c.pdf").write_bytes(b"no text")
    (tmp_path / "D.TXT").write_text("Third.", encoding="utf-8-sig")
    found, skipped = read_documents(DocumentsConfig(str(tmp_path)), "raise")
    assert found == [("D.TXT", "Third."), ("a copy.txt", "First."), ("deep/b.md", "Second.")]
    assert skipped.first == {"is there already": "a.txt"}
    rows = tmp_path / "texts.jsonl"
    rows.write_text(json.dumps({"body": "First."}) + "\n" + json.dumps({"body": "Second."}) + "\n")
    found, _ = read_documents(DocumentsConfig(str(rows), text_column="body"), "raise")
    assert [text for _, text in found] == ["First.", "Second."]


@pytest.mark.parametrize(
    ("content", "wrong"),
    [
        (b"\xff\xfe\x00", "text is binary, not text"),
        (b"caf\xe9", "holds text that is not UTF-8"),
        (b" \n", "text is empty"),
    ],
    ids=["bytes", "Latin-1", "empty"],
)
def test_a_file_that_is_no_text_stops_with_its_name_or_is_counted(tmp_path: Path, content: bytes, wrong: str) -> None:
    (tmp_path / "good.txt").write_text("Fine.")
    (tmp_path / "odd.txt").write_bytes(content)
    with pytest.raises(DataError, match=f"^odd.txt: {wrong}; .*data.on_error=skip"):
        read_documents(DocumentsConfig(str(tmp_path)), "raise")
    found, skipped = read_documents(DocumentsConfig(str(tmp_path)), "skip")
    assert (len(found), skipped.counts) == (1, {wrong: 1})


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_rows_without_text_stop_with_their_number_or_are_counted(tmp_path: Path, suffix: str) -> None:
    path, rows = tmp_path / f"texts.{suffix}", [{"text": "Fine."}, {"text": None}, {"text": "a\x00"}]
    if suffix == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    unit = "line" if suffix == "jsonl" else "row"
    with pytest.raises(DataError, match=f"^texts.{suffix}, {unit} 2: text is null; "):
        read_documents(DocumentsConfig(str(path)), "raise")
    found, skipped = read_documents(DocumentsConfig(str(path)), "skip")
    assert [text for _, text in found] == ["Fine."]
    assert skipped.counts == {"text is null": 1, "text is binary, not text": 1}


def test_where_every_text_was_left_out_the_reasons_are_told(tmp_path: Path) -> None:
    (tmp_path / "odd.txt").write_bytes(b"caf\xe9")
    with pytest.raises(ConfigError, match=r"holds no text \(1 holds text that is not UTF-8\); name a folder"):
        read_documents(DocumentsConfig(str(tmp_path)), "skip")


def test_a_column_that_is_not_there_is_named(tmp_path: Path) -> None:
    (tmp_path / "texts.jsonl").write_text('{"body": "Fine."}\n')
    for on_error in ("raise", "skip"):
        with pytest.raises(
            ConfigError, match=r"^documents\.text_column=text: texts.jsonl has the columns body; name one of them$"
        ):
            read_documents(DocumentsConfig(str(tmp_path / "texts.jsonl")), on_error)


def test_no_text_at_all_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"^documents\.path=.*: holds no text; name a folder with files that end in \.txt, "
    ):
        read_documents(DocumentsConfig(str(tmp_path)), "raise")


def test_a_changed_or_renamed_file_is_another_content(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("First.")
    before = documents_content(tmp_path)
    (tmp_path / "a.txt").rename(tmp_path / "b.txt")
    renamed = documents_content(tmp_path)
    (tmp_path / "b.txt").write_text("Second.")
    assert len({before, renamed, documents_content(tmp_path)}) == 3


# Rephrasing

TEXT = "In 1889 the tower of Gustave Eiffel was 312 metres tall, and the people of Paris did not like it much."


@pytest.mark.parametrize("style", list(STYLES))
def test_each_style_shows_the_text(style: str) -> None:
    assert TEXT in build_message(TEXT, style)


@pytest.mark.parametrize("names", ["", "easy,simple"])
def test_a_style_that_is_not_there_is_named(names: str) -> None:
    with pytest.raises(ConfigError, match="there are easy, medium, hard, question_answer"):
        styles(names)


@pytest.mark.parametrize(
    ("reply", "cleaned"),
    [
        ("Sure! Here is the text:\n\nA tower.", "A tower."),
        ("Here's a simpler version:\nA tower.", "A tower."),
        ("Here’s the rephrased text: The tower is tall.", "The tower is tall."),
        ("Sure!\n\nHere is a simple version:\nA tower.", "A tower."),
        ("Rephrased text: A tower.", "A tower."),
        ("Here is the tower: it is tall.", "Here is the tower: it is tall."),
        ("A tower.\n\nI hope this helps!", "A tower."),
        ("A tower. Here is why:\nit is tall.", "A tower. Here is why:\nit is tall."),
        ("[Text]\nA tower.\n[End of text]", "A tower."),
        ("The rewritten constitution is a text of 1990: it has ten parts.",) * 2,
        ("This is the story of a king whose text of laws survived: Hammurabi.",) * 2,
        ("Here it is:\n\n**[Text]**\n\nA tower that is tall.", "A tower that is tall."),
        ("A tower.\n\n[End of text]\n\n[Text]", "A tower."),
        ("[text] **A** tower. [End of text]", "**A** tower."),
        ("[Text]\nA tower.\n[End of text]\n\nThis keeps all that was said, and no number is lost.", "A tower."),
        ("I see.\n\n[Text]", "I see."),
        ("See [text](http://a.b) or use [Text] to see.", "See [text](http://a.b) or use [Text] to see."),
    ],
)
def test_words_to_the_person_are_removed(reply: str, cleaned: str) -> None:
    assert clean(reply) == cleaned


@pytest.mark.parametrize(
    ("rephrased", "style", "reason"),
    [
        ("", "easy", "is empty"),
        ("A tower.", "easy", "is too short"),
        (f"{TEXT} " * 4, "easy", "is too long"),
        (TEXT.upper(), "easy", "copies the text"),
        ("People in Paris had a very tall tower and they were not happy.", "question_answer", "asks no question"),
        ("People in Paris had a very tall tower and they were not happy.", "easy", None),
        ("Question: How tall was the tower of Paris?\nAnswer: It was 312 metres.", "question_answer", None),
    ],
)
def test_each_reason_not_to_use_a_rephrasing(rephrased: str, style: str, reason: str | None) -> None:
    assert reason_against(TEXT, rephrased, style, finished=True) == reason
    assert reason_against(TEXT, rephrased, style, finished=False) == ("is cut off" if rephrased else "is empty")


def test_questions_are_read_and_what_was_kept_is_measured() -> None:
    text = "Question: How tall was it?\nAnswer: 312 metres.\n\n**Question 2:** Whose was it?\nAnswer: Gustave Eiffel's."
    assert questions(text) == ["How tall was it?", "Whose was it?"]
    assert questions("Question: How tall was it? Answer: 312 m") == ["How tall was it?"]
    assert questions("Question:\nAnswer: blue") == []
    assert questions("Question: **What is that?**\nAnswer: a tower") == ["What is that?"]
    shares = kept(TEXT, text)
    assert shares.numbers == 0.5
    assert shares.names == 0.5
    assert kept("no such thing", text).numbers is None
    assert kept("He had 5 of them, said Ann.", "It was 1985, the Annual of 1.5 said.") == Kept(0.0, 0.0)
    assert kept("1. First\n2. He had 5, said Ann.", "Ann said that there were 5.") == Kept(1.0, 1.0)


@pytest.mark.parametrize("text", ["It began in the 1990s, 5km away.", "So said André Łoś, in the end."])
def test_a_copy_keeps_all_numbers_and_names(text: str) -> None:
    assert {kept(text, text).numbers, kept(text, text).names} <= {1.0, None}
    assert kept(text, text) != Kept(None, None)
