"""A data card: where what is learned from came from, what was left out at each step and why, and some of it to read."""

from __future__ import annotations

from pathlib import Path

import pytest

from selfreward.records import Chunk, Prompt, Rephrasing
from selfreward.tracking.data_card import SHOWN, DataCard, data_cards, markdown
from selfreward.tracking.metrics import Iteration
from tests.unit.reporting import GATED, TAKEN, Maker

WRITTEN = {
    "rounds": 2,
    "looked_at": 30,
    "left_out": {"is cut off": 12, "is close to another": 7},
    "examples_left_out": {"is cut off": ["Write a | table\nof"], "is close to another": ["Write a table."]},
    "mean_nearest_seed": 0.31,
}
SOURCES = {
    "written": ("new_prompts", WRITTEN, {"generation": {"kind": "self_instruct"}}),
    "about documents": ("document_prompts", {"prompts": 11, "pool": 40}, {"iteration": 1}),
    "taken": ("prompts", TAKEN, {"source": {"kind": "seed_pool"}}),
}


def asked(tmp_path: Path, source: str, count: int = 25) -> DataCard:
    """The card of prompts from a source."""
    maker = Maker(tmp_path)
    prompts = [Prompt(str(number), f"Prompt\nnumber {number}", "own") for number in range(count)]
    stage, metrics, config = SOURCES[source]
    second: Iteration = {
        "source": maker.artifact(stage, metrics, config=config),
        "prompts": maker.artifact("gate", GATED, prompts, {"gate": {"personal": "redact"}}),
        "candidates": maker.artifact("candidates", {"prompts_too_long": 2}),
    }
    (card,) = data_cards([maker.first(), second])
    return card


@pytest.mark.parametrize(
    ("source", "origin", "steps"),
    [
        (
            "written",
            "Written by a policy (self_instruct) in 2 rounds.",
            {"proposals": 30, "left out: is cut off": 12, "left out: is close to another": 7},
        ),
        ("about documents", "Questions that a policy asked about documents.", {"questions, for all iterations": 40}),
        ("taken", "Taken from p.jsonl.", {"left out of the whole source: prompt is null": 1}),
    ],
)
def test_says_where_prompts_came_from_and_what_became_of_them(
    tmp_path: Path, source: str, origin: str, steps: dict[str, int]
) -> None:
    card = asked(tmp_path, source)
    assert (card.iteration, card.title, card.origin) == (1, "Prompts of iteration 1", origin)
    gated = {"came to the gate": 11, "left out: is a near duplicate": 2}
    gated |= {"left out: has more tokens than sampling.max_prompt_tokens": 2, "asked": 7}
    assert {step.name: step.count for step in card.steps} == steps | gated


def test_twenty_are_shown_each_on_a_line_of_its_own(tmp_path: Path) -> None:
    lines = markdown(asked(tmp_path, "written")).splitlines()
    first = lines.index("## Some of it") + 2
    assert lines[first : first + SHOWN] == [f"{n + 1}. Prompt number {n}" for n in range(SHOWN)]
    assert lines[first + SHOWN] == ""


def test_a_text_cannot_break_the_table(tmp_path: Path) -> None:
    assert "| left out: is cut off | 12 | Write a \\| table of |" in markdown(asked(tmp_path, "written")).splitlines()


def test_says_how_near_the_prompts_are_to_those_that_were_shown_and_what_is_risky(tmp_path: Path) -> None:
    text = markdown(asked(tmp_path, "written"))
    assert "- ROUGE-L to the nearest seed: 0.31 on average" in text
    assert "- redacted: 1 e-mail" in text
    assert "- What a policy wrote carries its habits" in text[text.index("## Risks") :]


def test_a_risk_is_told_where_there_is_one(tmp_path: Path) -> None:
    risks = asked(tmp_path, "taken").risks
    assert any("found by patterns" in risk for risk in risks)
    assert not any("policy wrote" in risk for risk in risks)


def test_rephrased_documents_show_what_came_through_and_the_text_beside_its_rephrasing(tmp_path: Path) -> None:
    maker = Maker(tmp_path)
    chunks = {"documents": 3, "left_out": {"is there already": 1}, "first_left_out": {"is there already": "b.txt"}}
    chunks |= {"file": "notes", "held_out": 1, "redacted": {"phone": 2}}
    made = {"rephrasings": 4, "used": 1, "left_out": {"is cut off": 3}, "used_by_style": {"easy": 1}}
    made |= {"numbers_kept": 0.8, "names_kept": None, "languages": {"en": 1}, "mean_words": 3.0}
    made |= {"distinct_1": 1.0, "distinct_2": 0.5}
    rows = [
        Rephrasing("c", "easy", "In other words.", "", 0.8, None),
        Rephrasing("d", "hard", "In", "is cut off", 0, 0),
    ]
    texts = [Chunk(name, "a.txt", "A text.", 3, name == "g") for name in "cdefg"]
    first: Iteration = {
        **maker.first(),
        "chunks": maker.artifact("chunks", chunks, texts, {"personal": "redact"}),
        "rephrasings": maker.artifact("rephrasings", made, rows),
        "pretrained": maker.artifact("policies", {"real_tokens": 30, "rephrased_tokens": 10}),
    }
    (card,) = data_cards([first])
    assert card.origin == "Chunks of the documents in notes, each in a policy's own words."
    assert {step.name: step.count for step in card.steps} == {
        "left out: is there already": 1,
        "documents": 3,
        "chunks of those not held out": 4,
        "left out: is cut off": 3,
        "rephrasings used": 1,
        "tokens of real texts learned from, in an epoch": 30,
        "tokens of rephrasings learned from, in an epoch": 10,
    }
    text = markdown(card)
    assert "| left out: is there already | 1 | b.txt |" in text
    assert "- numbers kept: 80 %" in text
    assert "- redacted: 2 phone" in text
    assert "- distinct-1, distinct-2: 1.00, 0.50" in text
    assert "1. A text. (easy:) In other words." in text


def test_documents_that_nobody_rephrased_have_a_card_of_their_own(tmp_path: Path) -> None:
    maker = Maker(tmp_path)
    chunks = {"documents": 2, "left_out": {}, "first_left_out": {}, "file": "notes", "held_out": 1, "redacted": {}}
    texts = [Chunk(name, "a.txt", f"Text {name}.", 3, name == "d") for name in "cd"]
    first: Iteration = {**maker.first(), "chunks": maker.artifact("chunks", chunks, texts, {"personal": "redact"})}
    (card,) = data_cards([first])
    assert (card.title, card.origin) == ("Documents", "Chunks of the documents in notes.")
    assert [(step.name, step.count) for step in card.steps] == [
        ("documents", 2),
        ("chunks of those not held out", 1),
        ("tokens of real texts learned from, in an epoch", 0),
    ]
    assert card.examples == ["Text c."]
    assert not any("policy wrote" in risk for risk in card.risks)


def test_what_people_wrote_has_a_card_with_the_rows_that_were_left_out(tmp_path: Path) -> None:
    maker = Maker(tmp_path)
    metrics = {"left_out": {"has no score": 2}, "first_left_out": {"has no score": "p.jsonl, line 7"}, "held_out": 5}
    metrics |= {"file": "p.jsonl", "redacted": {}}
    ratings = maker.artifact("ratings", metrics, config={"reading": {"format": "groups"}, "personal": "ignore"})
    tuned = {"policy": maker.artifact("policies", {"drawn": {"ratings": 7}, "too_long": 0}), "ratings": ratings}
    (card,) = data_cards([{**maker.first(), **tuned}])
    assert card.origin == "Read from p.jsonl, a file of people's ratings in the format groups."
    assert card.facts == {"answers kept apart, to measure by or for an independent judge": "5"}
    assert "Personal data was not looked for." in card.risks
    assert [(step.name, step.count, step.example) for step in card.steps] == [
        ("left out: has no score", 2, "p.jsonl, line 7"),
        ("fit to learn from", 0, ""),
        ("drawn to learn from", 7, ""),
    ]
