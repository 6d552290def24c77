"""Problems of reasoning-gym: made again from their names alone, checked by the package, refused with a remedy."""

from __future__ import annotations

import sys
from random import Random

import pytest

from selfreward.config import DataConfig, PromptsConfig
from selfreward.errors import ConfigError
from selfreward.simulation import reasoning
from selfreward.simulation.checks import load, scores
from selfreward.sources import SOURCES


def test_without_the_package_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(
        ConfigError,
        match=r"^prompts.kind=reasoning: needs reasoning-gym \(.*\); pip install -e '.\[reasoning\]' adds it",
    ):
        reasoning.problem("chain_sum", 0, seed=12345)


def test_tasks_must_be_named() -> None:
    with pytest.raises(ConfigError, match=r"^prompts.tasks=: name tasks of reasoning-gym"):
        SOURCES["reasoning"](PromptsConfig(kind="reasoning"), DataConfig())


@pytest.fixture
def installed() -> None:
    pytest.importorskip("reasoning_gym", reason="comes with selfreward[reasoning]")


@pytest.mark.usefixtures("installed")
def test_a_task_that_is_not_there_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"^prompts.tasks=steam: no such task with levels; there are .*chain_sum"):
        reasoning.problem("steam", 0, 0)


@pytest.mark.usefixtures("installed")
def test_a_right_answer_passes_and_a_wrong_one_does_not() -> None:
    pool = SOURCES["reasoning"](PromptsConfig(kind="reasoning", tasks="chain_sum", held_out=4), DataConfig())
    for prompt in pool.select(10, 1, seed=0):
        checks = load(prompt.check)
        expression = prompt.prompt.split("problem: ")[1].split(" =")[0]
        right = eval(expression)
        assert scores(f"Adding up.\nAnswer: {right}", checks) == [1.0]
        assert scores(f"Answer: **{right}**.", checks) == [1.0]
        assert scores(f"Answer: {right + 1}", checks) == [0.0]
        assert scores(f"{right}", checks) == [0.0]  # it was asked to say which is the answer


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("task", ["letter_counting", "basic_arithmetic", "number_sorting"])
def test_a_right_answer_may_end_in_a_full_stop(task: str) -> None:
    _, entry = reasoning._made(task, 0, 7)
    assert reasoning.score(f"Answer: {entry['answer']}.", task, 0, 7) == 1.0


@pytest.mark.usefixtures("installed")
def test_prompts_are_made_again_from_a_seed_and_kept_apart_from_those_held_out() -> None:
    pool = SOURCES["reasoning"](
        PromptsConfig(kind="reasoning", tasks="chain_sum, letter_counting", held_out=10), DataConfig()
    )
    assert {prompt.category for prompt in pool.held_out} == {"chain_sum", "letter_counting"}
    first = pool.select(20, 1, seed=0)
    assert first == pool.select(20, 1, seed=0)
    assert not {p.prompt_id for p in first} & {p.prompt_id for p in [*pool.held_out, *pool.select(20, 2, seed=0)]}


@pytest.mark.usefixtures("installed")
def test_other_tasks_and_other_levels_are_another_source() -> None:
    made = [{"tasks": "chain_sum"}, {"tasks": "chain_sum,letter_counting"}, {"tasks": "chain_sum", "level": 2}]
    pools = [
        SOURCES["reasoning"](PromptsConfig(kind="reasoning", held_out=2, **changes), DataConfig()) for changes in made
    ]
    assert len({pool.source.content for pool in pools}) == 3


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("text", ["Answer:", "Answer: []", "Answer: 1/0", "Answer: {", "no"])
def test_whatever_is_written_is_scored(text: str) -> None:
    for task in ("chain_sum", "number_sorting", "letter_counting", "basic_arithmetic"):
        assert 0 <= reasoning.score(text, task, 0, Random(0).randrange(100)) <= 1
