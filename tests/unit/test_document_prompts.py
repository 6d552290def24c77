"""Questions about documents as prompts: each once, about as many texts as can be, and enough for all iterations."""

from __future__ import annotations

from pathlib import Path

import pytest

from selfreward.errors import ConfigError
from selfreward.records import Chunk, Prompt, Rephrasing
from selfreward.stages.document_prompts import DOCUMENT_PROMPTS, DocumentPromptsIdentity
from selfreward.store import Store
from tests.unit.making import artifact, tools

CHUNKS = [Chunk(f"c{n}", "a.txt", f"Text {n}.", 3, False) for n in range(4)]
ASKED = [
    Rephrasing(
        f"c{n}", "question_answer", f"Question: Who {n}?\nAnswer: A.\nQuestion: What {n}?\nAnswer: B.", "", None, None
    )
    for n in range(4)
]
OTHERS = [
    Rephrasing("c0", "easy", "Question: not one?", "", None, None),
    Rephrasing("c1", "question_answer", "Question: left out?", "is cut off", None, None),
]


def prompts(folder: Path, iteration: int, per_iteration: int, last: int = 1) -> list[str]:
    store = Store(folder, tools())
    store.tools.cfg.iteration = last
    parents = {
        "chunks": artifact(store, "chunks", CHUNKS, Chunk),
        "rephrasings": artifact(store, "rephrasings", [*ASKED, *OTHERS], Rephrasing),
    }
    made = store.run(DOCUMENT_PROMPTS, DocumentPromptsIdentity(iteration, per_iteration), parents, 0)
    return [prompt.prompt for prompt in made.read(Prompt)]


def test_all_texts_are_asked_about_before_one_is_asked_about_again(tmp_path: Path) -> None:
    first, second = (prompts(tmp_path, iteration, 4) for iteration in (1, 2))
    assert {prompt.splitlines()[0] for prompt in first} == {f"Who {n}?" for n in range(4)}
    assert {prompt.splitlines()[0] for prompt in second} == {f"What {n}?" for n in range(4)}
    assert all(prompt.endswith(f"Text {prompt.splitlines()[0][-2]}.") for prompt in first + second)


def test_too_few_for_the_last_iteration_are_an_error_before_the_first(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        prompts(tmp_path, 1, 4, last=3)
    said = "prompts.per_iteration=4: the documents gave 8 questions for 3 iterations; use at most 2, or more documents"
    assert str(raised.value) == said
