"""What people wrote is read from the forms that data sets have."""

from __future__ import annotations

import gzip
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from selfreward.records import Demonstration, prompt_id
from tests.unit.seed_files import demonstrations, jsonl, ratings, reply, scores, tree

SHARED = Path(__file__).parents[3] / "shared" / "data"


def test_columns_may_have_any_name_in_jsonl_gzip_and_parquet(tmp_path: Path) -> None:
    rows = [{"q": f"Question {i}?", "a": f"Answer {i}.", "grade": i} for i in range(3)]
    reading = {"prompt_column": "q", "response_column": "a", "score_column": "grade", "highest_score": 2.0}
    plain = jsonl(tmp_path, *rows)
    packed = tmp_path / "people.jsonl.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    table = tmp_path / "people.parquet"
    pq.write_table(pa.Table.from_pylist(rows), table)
    for path in (plain, packed, table):
        assert scores(ratings(path, **reading)) == {"Answer 0.": 0, "Answer 1.": 2.5, "Answer 2.": 5}
        found = demonstrations(path, **reading).train
        assert found[1] == Demonstration(prompt_id("Question 1?"), "Question 1?", "Answer 1.")


def test_a_group_is_scored_by_grades_or_by_ranks(tmp_path: Path) -> None:
    reading = {"format": "groups", "response_column": "text"}
    graded = [{"text": "Red.", "quality": 1.0}, {"text": "A stone.", "quality": 0.25}]
    path = jsonl(tmp_path, {"prompt": "Name a colour.", "responses": graded})
    found = ratings(path, **reading, score_column="quality", highest_score=1.0)
    assert scores(found) == {"Red.": 5.0, "A stone.": 1.25}
    ranked = [{"text": "Blue?", "rank": 1}, {"text": "Red.", "rank": 0}, {"text": "A stone.", "rank": 2}]
    path = jsonl(tmp_path, {"prompt": "Name a colour.", "responses": ranked})
    assert scores(ratings(path, **reading)) == {"Red.": 5.0, "Blue?": 2.5, "A stone.": 0.0}
    assert demonstrations(path, **reading).train[0].response == "Red."


def test_a_conversation_so_far_is_a_prompt(tmp_path: Path) -> None:
    messages = [
        {"role": "user", "content": "Name a colour."},
        {"role": "assistant", "content": "Red."},
        {"role": "user", "content": "Another."},
    ]
    path = jsonl(tmp_path, {"messages": messages, "response": "Blue."}, {"messages": messages[:1], "response": "Red."})
    found = demonstrations(path, prompt_column="messages").train
    assert [seed.prompt for seed in found] == [
        "User: Name a colour.\n\nAssistant: Red.\n\nUser: Another.",
        "Name a colour.",
    ]


def test_of_an_oasst_tree_english_first_turns_alone_are_read(tmp_path: Path) -> None:
    """English first turns: the best answer to learn from, all ranked ones to judge by."""
    later = [{"text": "And another?", "role": "prompter", "lang": "en", "replies": [reply("Blue.", 0)]}]
    path = jsonl(
        tmp_path,
        tree([reply("Red.", 0, replies=later), reply("Stone.", 1), reply("Rot.", 2, lang="de"), reply("?", None)]),
        tree([reply("Rot.", 0)], lang="de", text="Nenne eine Farbe."),
    )
    assert [seed.response for seed in demonstrations(path, format="oasst").train] == ["Red."]
    assert scores(ratings(path, format="oasst")) == {"Red.": 5.0, "Stone.": 0.0}


def test_ultrafeedback_scores_of_1_to_10_become_0_to_5(tmp_path: Path) -> None:
    completions = [{"response": "Red.", "overall_score": 10}, {"response": "Stone.", "overall_score": 1}]
    path = jsonl(tmp_path, {"instruction": "Name a colour.", "completions": completions})
    assert scores(ratings(path, format="ultrafeedback")) == {"Red.": 5.0, "Stone.": 0.0}
    assert demonstrations(path, format="ultrafeedback").train[0].response == "Red."


def test_of_hh_first_turns_give_the_chosen_answer_5_and_the_rejected_0(tmp_path: Path) -> None:
    def turn(answer: str) -> str:
        return f"\n\nHuman: Name a colour.\n\nAssistant: {answer}"

    longer = turn("Red.\n\nHuman: Another.\n\nAssistant: Blue.")
    path = jsonl(tmp_path, {"chosen": turn("Red."), "rejected": turn("Stone.")}, {"chosen": longer, "rejected": longer})
    read = ratings(path, format="hh")
    assert scores(read) == {"Red.": 5.0, "Stone.": 0.0}
    assert len({seed.group for seed in read.train}) == 1
    assert [seed.response for seed in demonstrations(path, format="hh").train] == ["Red."]


@pytest.mark.skipif(not SHARED.exists(), reason="the project's development data are not here")
def test_the_data_of_oasst_are_read_whole() -> None:
    answers = demonstrations(SHARED / "ift_oasst2_rank0.jsonl")
    graded = ratings(
        SHARED / "eft_oasst2_quality.jsonl",
        format="groups",
        response_column="text",
        score_column="quality",
        highest_score=1.0,
    )
    ranked = ratings(
        SHARED / "oasst_en100_ranked.jsonl", format="groups", response_column="text", prompt_column="messages"
    )
    assert len(answers.train) + answers.skipped.counts["is there already"] == 696
    assert len({rating.prompt_id for rating in graded.train}) == 735
    assert len({rating.prompt_id for rating in ranked.train}) > 190
