"""Nothing that a policy is evaluated on is learned from: a run with such a text stops before any policy learns."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from selfreward.config import RunConfig
from selfreward.errors import ConfigError, ContaminationError
from selfreward.records import Candidate, Chunk, Demonstration
from tests.loop.helpers import Recorder, run_loop

HELD_OUT = "Write a letter to the mayor in which you ask for a new bridge over the river near the old mill."
PLANTED = f"Here is what I was asked. {HELD_OUT} Do it now."


@pytest.fixture
def planted(tiny_config: RunConfig, tmp_path: Path) -> RunConfig:
    """A file of prompts one of which holds another one that is held out."""
    rows = [{"prompt": HELD_OUT, "split": "held_out"}, {"prompt": PLANTED, "split": "train"}]
    rows += [{"prompt": f"Say {n} and nothing else.", "split": "train"} for n in range(5)]
    cfg = tiny_config
    cfg.prompts.kind, cfg.prompts.category_column, cfg.prompts.held_out = "file", None, 1
    cfg.prompts.path = _written(tmp_path / "prompts.jsonl", rows)
    return cfg


def _written(path: Path, rows: list[dict[str, str]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_a_planted_prompt_stops_the_run_before_any_policy_answers(planted: RunConfig) -> None:
    """In whichever iteration it would be asked: each of three takes two of the six."""
    planted.iteration, planted.prompts.per_iteration = 3, 2
    recorder = Recorder()
    with pytest.raises(
        ContaminationError, match=r"^1 of 6 prompts are in an evaluation: .* of held_out; take them out"
    ):
        run_loop(planted, recorder)
    assert recorder.computed[-1] == "leaks"
    assert not {"candidates", "gate"} & {*recorder.computed}


def test_the_remedy_makes_nothing_anew(planted: RunConfig, tmp_path: Path) -> None:
    planted.iteration = 0
    rows = [{"prompt": PLANTED, "response": "Dear mayor."}, {"prompt": "Say yes.", "response": "Yes."}]
    planted.tuning.demonstrations.path = _written(tmp_path / "answers.jsonl", rows)
    recorder = Recorder()
    with pytest.raises(ContaminationError, match=r"^1 of 2 people's prompts"):
        run_loop(planted, recorder)
    again = Recorder()
    planted.gate.contamination, planted.tuning.warmup_ratio = "drop", 0.0
    run_loop(planted, again)
    assert again.reused[: len(recorder.computed)] == recorder.computed


def test_dropped_it_is_not_asked(planted: RunConfig) -> None:
    planted.gate.contamination = "drop"
    _, made = run_loop(planted)
    assert made["prompts"].metrics["left_out"] == {"is evaluated on": 1}
    assert PLANTED not in {candidate.prompt for candidate in made["candidates"].read(Candidate)}


def test_what_people_answered_is_looked_at_too(planted: RunConfig, tmp_path: Path) -> None:
    rows = [{"prompt": PLANTED, "response": "Dear mayor."}, {"prompt": "Say yes.", "response": "Yes."}]
    planted.iteration, planted.tuning.demonstrations.path = 0, _written(tmp_path / "answers.jsonl", rows)
    with pytest.raises(ContaminationError, match=r"^1 of 2 people's prompts are in an evaluation: "):
        run_loop(planted)
    planted.gate.contamination, planted.tuning.warmup_ratio = "drop", 0.0
    (made,) = run_loop(planted)
    assert [row.prompt for row in made["demonstrations"].read(Demonstration)] == ["Say yes."]
    assert made["demonstrations"].metrics["left_out"] == {"is evaluated on": 1}


def test_where_no_answer_of_people_is_left_the_file_is_named(planted: RunConfig, tmp_path: Path) -> None:
    rows = [{"prompt": PLANTED, "response": "Dear mayor."}]
    planted.tuning.demonstrations.path = _written(tmp_path / "answers.jsonl", rows)
    planted.gate.contamination = "drop"
    with pytest.raises(ConfigError, match=r"^tuning.demonstrations.path=.*: all its prompts are evaluated on; name"):
        run_loop(planted)


def test_where_none_of_those_held_out_is_left_it_says_to_hold_out_more(planted: RunConfig, tmp_path: Path) -> None:
    rows = [{"prompt": prompt, "response": "Yes.", "score": 3} for prompt in (PLANTED, "Say yes.")]
    file = planted.tuning.ratings
    file.path, file.held_out = _written(tmp_path / "ratings.jsonl", rows), 1  # the planted one, by its hash
    planted.gate.contamination, planted.evaluation.judge = "drop", "independent"
    with pytest.raises(ConfigError, match=r"^tuning.ratings.held_out=1: all of them are evaluated on; hold out more"):
        run_loop(planted)


def test_where_no_chunk_is_left_the_documents_are_named(planted: RunConfig, tmp_path: Path) -> None:
    rows = [{"text": f"{PLANTED} {number}"} for number in range(2)]
    planted.documents.path, planted.documents.held_out = _written(tmp_path / "texts.jsonl", rows), 1
    planted.gate.contamination = "drop"
    with pytest.raises(
        ConfigError,
        match=r"^documents.path=.*: no chunk may be learned from \(1 a chunk is evaluated on\); name other texts",
    ):
        run_loop(planted)


def test_documents_are_looked_at_too(planted: RunConfig, tmp_path: Path) -> None:
    texts = [f"The house of number {n} was built of stone by a man from the north." for n in range(4)]
    rows = [{"text": text} for text in (PLANTED, *texts)]
    planted.iteration, planted.documents.path = 0, _written(tmp_path / "texts.jsonl", rows)
    planted.documents.held_out, planted.documents.most_tokens, planted.documents.max_new_tokens = 1, 0, 8
    planted.gate.resemblance = 1.0
    with pytest.raises(ContaminationError, match=r"^1 of 4 chunks of documents are in an evaluation: "):
        run_loop(planted)
    planted.gate.contamination = "drop"
    (made,) = run_loop(planted)
    assert PLANTED not in {chunk.text for chunk in made["chunks"].read(Chunk)}


@pytest.mark.parametrize(
    ("answer", "is_a_leak"),
    [("I am not sure about that.", False), ("The old mill was closed in May of 1902.", True)],
)
def test_an_answer_to_measure_by_is_looked_for_in_documents_unless_many_would_say_it(
    planted: RunConfig, tmp_path: Path, answer: str, is_a_leak: bool
) -> None:
    people = [{"prompt": f"What happened in {year}?", "response": answer} for year in (1901, 1902)]
    demonstrations = planted.tuning.demonstrations
    demonstrations.path, demonstrations.held_out = _written(tmp_path / "answers.jsonl", people), 1
    planted.tuning.most_demonstrations, planted.iteration = 0, 0
    texts = [*(f"House {n} is old. {answer}" for n in range(3)), "The sea is cold in March.", "Bread is made of flour."]
    planted.documents.path = _written(tmp_path / "texts.jsonl", [{"text": text} for text in texts])
    planted.documents.held_out, planted.documents.most_tokens, planted.documents.max_new_tokens = 1, 0, 8
    planted.gate.resemblance = 1.0
    if is_a_leak:
        with pytest.raises(ContaminationError, match="of demonstrations_held_out; take them out"):
            run_loop(planted)
    else:
        (made,) = run_loop(planted)
        assert {chunk.text for chunk in made["chunks"].read(Chunk)} == set(texts)
