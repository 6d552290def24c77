"""What is personal is in nothing that a policy learns from; what is only measured by stays as people wrote it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from selfreward.config import RunConfig
from selfreward.errors import ConfigError
from selfreward.records import Chunk, Demonstration, Rating
from selfreward.store import Artifact
from tests.loop.helpers import run_loop

ASKED = "Whom do I write to about number {}?"
SAID = "To ann.b{}@example.com, or call (212) 555-0187."
REDACTED = "To [e-mail], or call [phone]."


@pytest.fixture
def people(tiny_config: RunConfig, tmp_path: Path) -> RunConfig:
    """Answers and ratings that all hold an address to write to and a telephone number, one prompt of each held out."""
    cfg = tiny_config
    cfg.iteration, cfg.tuning.warmup_ratio = 0, 0.0
    rows = [{"prompt": ASKED.format(n), "response": SAID.format(n), "score": n} for n in range(4)]
    path = tmp_path / "people.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for file in (cfg.tuning.demonstrations, cfg.tuning.ratings):
        file.path, file.held_out = str(path), 1
    return cfg


def test_people_s_answers_and_ratings_are_redacted_and_counted(people: RunConfig, tmp_path: Path) -> None:
    with (tmp_path / "people.jsonl").open("a") as file:  # once redacted, these are one
        for name in ("bob", "cat"):
            prompt = f"What is the word of {name}@example.org?"
            file.write(json.dumps({"prompt": prompt, "response": "None.", "score": len(prompt) % 2}) + "\n")
    (made,) = run_loop(people)
    for name, said in _said(made).items():
        rows = made[name].manifest.rows
        assert said <= {REDACTED, "None."}
        assert made[name].metrics["redacted"]["phone"] == sum(row.response == REDACTED for row in _rows(made, name))
        assert rows + made[name].metrics["left_out"].get("is there already, once redacted", 0) == 5
        assert sum(row.response == "None." for row in _rows(made, name)) <= 1
    measured = made["people"].read(Rating) + made["demonstrations_held_out"].read(Demonstration)
    assert {row.response for row in measured} <= {SAID.format(n) for n in range(4)}


def test_an_independent_judge_s_prompts_are_kept_apart_as_people_wrote_them(people: RunConfig) -> None:
    """Once redacted they are all one."""
    people.evaluation.judge, people.tuning.ratings.held_out, people.tuning.demonstrations.held_out = "independent", 2, 0
    rows = [{"prompt": f"What is the word of ann{n}@example.org?", "response": "None.", "score": n} for n in range(4)]
    Path(str(people.tuning.ratings.path)).write_text("".join(json.dumps(row) + "\n" for row in rows))
    (made,) = run_loop(people)
    kept = {row.prompt_id for row in made["independent_judge_prompts"].read(Rating)}
    assert len(kept) == 2
    assert made["demonstrations"].metrics["left_out"]["is a prompt that is kept to measure by"] == 2


def test_an_answer_that_is_ranked_in_two_groups_stays_in_both(people: RunConfig, tmp_path: Path) -> None:
    ranked = [[("A", 0), ("B", 1)], [("C", 0), ("A", 1)]]
    rows = [
        {"prompt": "Name a letter.", "responses": [{"response": text, "rank": rank} for text, rank in group]}
        for group in ranked
    ]
    path = tmp_path / "ranked.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    people.tuning.demonstrations.path = None
    people.tuning.ratings.path, people.tuning.ratings.format, people.tuning.ratings.held_out = str(path), "groups", 0
    (made,) = run_loop(people)
    assert sorted(row.response for row in made["ratings"].read(Rating)) == ["A", "A", "B", "C"]


def test_or_left_as_they_are_where_that_is_asked_for(people: RunConfig) -> None:
    people.gate.personal = "ignore"
    (made,) = run_loop(people)
    assert all(text in {SAID.format(n) for n in range(4)} for said in _said(made).values() for text in said)


def test_or_left_out_and_where_nothing_is_left_the_setting_is_named(people: RunConfig, tmp_path: Path) -> None:
    people.gate.personal = "drop"
    with pytest.raises(ConfigError, match=r"^gate.personal='?drop'?: all that is left of .*people.jsonl holds some"):
        run_loop(people)
    with (tmp_path / "people.jsonl").open("a") as file:
        file.write(json.dumps({"prompt": "Say yes.", "response": "Yes.", "score": 5}) + "\n")
        file.write(json.dumps({"prompt": "Say no.", "response": "No.", "score": 4}) + "\n")
    (made,) = run_loop(people)
    for name, said in _said(made).items():
        assert said <= {"Yes.", "No."}
        assert made[name].metrics["left_out"]["holds personal data"] == 5 - len(said)


@pytest.mark.parametrize("personal", ["redact", "drop"])
def test_chunks_of_documents_are_looked_at_too(tiny_config: RunConfig, tmp_path: Path, personal: str) -> None:
    cfg, folder = tiny_config, tmp_path / "texts"
    folder.mkdir()
    for n in range(4):
        (folder / f"{n}.txt").write_text(f"The house of number {n} was built of stone. Write to ann{n}@example.com.")
    (folder / "plain.txt").write_text("A man from the north was its first owner.")
    cfg.iteration, cfg.gate.personal, cfg.gate.resemblance = 0, personal, 1.0
    cfg.documents.path, cfg.documents.held_out = str(folder), 1
    cfg.documents.most_tokens, cfg.documents.max_new_tokens = 0, 8
    (made,) = run_loop(cfg)
    chunks = made["chunks"].read(Chunk)
    learned = [chunk.text for chunk in chunks if not chunk.held_out]
    assert not any("@" in text for text in learned)
    hidden = sum("[e-mail]" in text for text in learned)
    left_out = made["chunks"].metrics["left_out"].get("a chunk holds personal data", 0)
    assert (hidden > 0, left_out > 0) == (personal == "redact", personal == "drop")
    assert made["chunks"].metrics["redacted"] == ({"e-mail": hidden} if hidden else {})
    assert all("[" not in chunk.text for chunk in chunks if chunk.held_out)


def _rows(made: Mapping[str, Artifact], name: str) -> list[Demonstration] | list[Rating]:
    return made[name].read(Demonstration) if name == "demonstrations" else made[name].read(Rating)


def _said(made: Mapping[str, Artifact]) -> dict[str, set[str]]:
    return {name: {row.response for row in _rows(made, name)} for name in ("demonstrations", "ratings")}
