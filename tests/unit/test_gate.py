"""What the gate lets through, what it stops, and what it says of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from selfreward.config import GateConfig
from selfreward.errors import ContaminationError, GenerationError
from selfreward.records import Prompt, Rating, prompt_id
from selfreward.stages.gate import GATE, check_passed, gate_identity
from selfreward.stages.leaks import LEAKS, check_clean, leaks_identity
from selfreward.store import Artifact, Store
from tests.unit.making import artifact, tools

HELD_OUT = "Write a letter to the mayor in which you ask for a new bridge over the river near the old mill."
FINE = ["Name three rivers in Africa.", "Explain how a lock works to a child.", "Write a poem about the sea at night."]


def passed(folder: Path, *texts: str, templated: bool = False, **gate: Any) -> Artifact:
    """What the gate makes of prompts."""
    store, cfg = Store(folder, tools()), GateConfig(**gate)
    return store.run(GATE, gate_identity(cfg, leaks_identity(cfg), templated=templated), came(store, *texts))


def looked_through(folder: Path, *texts: str) -> Artifact:
    """What is said of prompts before any is asked."""
    store = Store(folder, tools())
    return store.run(LEAKS, leaks_identity(GateConfig()), came(store, *texts))


def came(store: Store[Any], *texts: str) -> dict[str, Artifact]:
    """Prompts, and what policies are evaluated on."""
    asked = artifact(store, "prompts", [Prompt(prompt_id(text), text, "") for text in texts], Prompt)
    held_out = artifact(store, "held", [Prompt(prompt_id(HELD_OUT), HELD_OUT, "")], Prompt)
    people = artifact(
        store, "ratings", [Rating("r", "Which planet is the largest of them all?", "Jupiter.", 5.0)], Rating
    )
    return {"prompts": asked, "held_out": held_out, "people": people}


def texts(made: Artifact) -> list[str]:
    return [prompt.prompt for prompt in made.read(Prompt)]


def test_what_is_fine_passes_in_its_order(tmp_path: Path) -> None:
    made = passed(tmp_path, *FINE)
    assert texts(made) == FINE
    assert (made.metrics["came"], made.metrics["prompts"], made.metrics["left_out"]) == (3, 3, {})
    assert made.metrics["languages"] == {"en": 3}
    assert made.metrics["words"] == [5, 8, 8]


def test_a_planted_prompt_stops_the_run_and_the_line_names_both_texts_and_the_remedy(tmp_path: Path) -> None:
    found = looked_through(tmp_path, *FINE, f"As before: {HELD_OUT}")
    with pytest.raises(ContaminationError) as raised:
        check_clean(GateConfig(), found)
    line = str(raised.value)
    assert line.startswith('1 of 4 prompts are in an evaluation: "As before: Write a letter')
    assert "of held_out; take them out, or set gate.contamination=drop" in line
    assert "\n" not in line
    check_clean(GateConfig(contamination="drop"), found)


def test_people_s_ratings_are_an_evaluation_too(tmp_path: Path) -> None:
    found = looked_through(tmp_path, "Tell me: which planet is the largest of them all?")
    with pytest.raises(ContaminationError, match="of people"):
        check_clean(GateConfig(), found)


def test_where_nothing_leaks_nothing_stops(tmp_path: Path) -> None:
    found = looked_through(tmp_path, *FINE)
    check_clean(GateConfig(), found)
    assert (found.metrics["prompts"], found.metrics["leaks"]) == (3, 0)


@pytest.mark.parametrize(("contamination", "left"), [("raise", FINE), ("drop", FINE), ("ignore", [*FINE, HELD_OUT])])
def test_a_leak_does_not_pass_unless_it_is_ignored(tmp_path: Path, contamination: str, left: list[str]) -> None:
    made = passed(tmp_path, *FINE, HELD_OUT, contamination=contamination)
    assert texts(made) == left
    assert made.metrics["left_out"] == ({} if contamination == "ignore" else {"is evaluated on": 1})


def test_two_questions_about_one_text_are_two_prompts_unless_they_are_alike(tmp_path: Path) -> None:
    text = " ".join(f"Sentence {n} of a long text about bridges, rivers and mills." for n in range(20))
    asked = [f"{question}\n\nAnswer from this text alone:\n\n{text}" for question in (*FINE, f"{FINE[1]}!")]
    assert texts(passed(tmp_path, *asked)) == asked[:3]


def test_of_near_duplicates_the_first_stays(tmp_path: Path) -> None:
    one = "Write a short story about a cat that learns to swim in the cold sea with its friends."
    other = one.replace("friends", "friend")
    made = passed(tmp_path, one, *FINE, other)
    assert texts(made) == [one, *FINE]
    assert made.metrics["examples_left_out"] == {"is a near duplicate": [other]}
    assert texts(passed(tmp_path, one, *FINE, other, near_duplicates="ignore")) == [one, *FINE, other]
    assert texts(passed(tmp_path, one, *FINE, other, templated=True)) == [one, *FINE, other]


def test_personal_data_is_redacted_and_counted_or_its_prompt_dropped(tmp_path: Path) -> None:
    personal = "Draft a reply to ann.b@example.com about the invoice of last week."
    made = passed(tmp_path, *FINE, personal)
    assert texts(made)[-1] == "Draft a reply to [e-mail] about the invoice of last week."
    assert made.read(Prompt)[-1].prompt_id == prompt_id(texts(made)[-1])
    assert made.metrics["redacted"] == {"e-mail": 1}
    dropped = passed(tmp_path, *FINE, personal, personal="drop")
    assert texts(dropped) == FINE
    assert dropped.metrics["examples_left_out"] == {"holds personal data": [texts(made)[-1]]}
    assert texts(passed(tmp_path, *FINE, personal, personal="ignore")) == [*FINE, personal]


def test_what_is_dropped_as_personal_makes_no_duplicate_of_another(tmp_path: Path) -> None:
    story = "Write a short story about a cat that learns to swim in the cold sea with its friends"
    made = passed(tmp_path, f"{story} ann@example.com.", f"{story}.", personal="drop")
    assert texts(made) == [f"{story}."]


def test_prompts_that_differ_in_what_is_redacted_alone_are_one_prompt(tmp_path: Path) -> None:
    one, other = (f"Reply to {name}@example.com about the invoice." for name in ("ann", "bob"))
    made = passed(tmp_path, one, *FINE, other, near_duplicates="ignore")
    assert texts(made) == ["Reply to [e-mail] about the invoice.", *FINE]
    assert made.metrics["left_out"] == {"is there already, once redacted": 1}
    assert made.metrics["came"] == made.metrics["prompts"] + sum(made.metrics["left_out"].values())


def test_redaction_hides_no_leak_and_no_language(tmp_path: Path) -> None:
    german = "Schreibe bitte eine kurze Antwort an ann.b@example.com über die Rechnung der letzten Woche."
    made = passed(tmp_path, *FINE, german, language="en")
    assert texts(made) == FINE
    leak = HELD_OUT.replace("Write", "Send ann.b@example.com this: write")
    assert texts(passed(tmp_path / "leak", *FINE, leak)) == FINE


def test_a_prompt_whose_answer_is_checked_is_not_redacted(tmp_path: Path) -> None:
    store = Store(tmp_path, tools())
    asked = Prompt("a", "Which is longer, ann@example.com or bo@example.com?", "", '[{"kind": "final_answer"}]')
    parents = {"prompts": artifact(store, "prompts", [asked], Prompt)}
    leaks = leaks_identity(GateConfig())
    assert store.run(GATE, gate_identity(GateConfig(), leaks, templated=False), parents).read(Prompt) == [asked]


def test_a_gate_that_lets_nothing_through_stops_the_run_and_says_why(tmp_path: Path) -> None:
    with pytest.raises(GenerationError, match=r"lets none of 3 prompts through \(3 is not in the language de\)"):
        check_passed(passed(tmp_path, *FINE, language="de"))


def test_another_language_is_left_out_where_one_is_named(tmp_path: Path) -> None:
    german = "Schreibe eine kurze Geschichte über eine Katze, die schwimmen lernt."
    assert texts(passed(tmp_path, *FINE, german)) == [*FINE, german]
    assert texts(passed(tmp_path, *FINE, german, language="en")) == FINE
