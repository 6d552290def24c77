"""Procedural problems of the `reasoning-gym` package (arXiv 2505.24760): its tasks by name and level, its scores."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from selfreward.errors import ConfigError

ASK = 'Think first if it helps. State your final answer on the last line, after "Answer:".'
_MARKS = " \n*_`$"
_STATES = re.compile(r"\bAnswer[*_]*:")


def problem(task: str, level: int, seed: int) -> str:
    """The text of a problem; a level beyond a task's highest is its highest.

    Raises `ConfigError` for a task that isn't there.
    """
    _, entry = _made(task, level, seed)
    return f"{entry['question'].strip()}\n\n{ASK}"


def score(text: str, task: str, level: int, seed: int) -> float:
    """The package's own score, 0 to 1, of what a text states after its last "Answer:"; 0 where it states nothing."""
    *before, answer = _STATES.split(text)
    answer = answer.strip(_MARKS)
    if not before or not answer:
        return 0.0
    problems, entry = _made(task, level, seed)
    said = {answer, answer.rstrip("." + _MARKS)} - {""}  # "5." too: a sentence may end, and so may an answer
    return max(_scored(problems, entry, one) for one in said)


def _scored(problems: Any, entry: dict[str, Any], answer: str) -> float:
    try:
        return min(max(float(problems.score_answer(answer, entry)), 0.0), 1.0)
    except Exception:  # its tasks parse answers in their own ways, and not all of them catch what a policy writes
        return 0.0


@cache
def _made(task: str, level: int, seed: int) -> tuple[Any, dict[str, Any]]:
    """The package's data set of one problem, which scores it, and the problem."""
    factory = _factory()
    if task not in factory.CURRICULA:
        known = ", ".join(sorted(factory.CURRICULA))
        raise ConfigError("prompts.tasks", task, f"no such task with levels; there are {known}")
    curriculum = factory.create_curriculum(task)
    curriculum.set_global_level(level)
    problems = factory.create_dataset(task, **vars(curriculum.generate_configuration({"seed": seed, "size": 1})))
    return problems, problems[0]


def _factory() -> Any:
    try:
        from reasoning_gym import factory  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        remedy = f"needs reasoning-gym ({error}); pip install -e '.[reasoning]' adds it"
        raise ConfigError("prompts.kind", "reasoning", remedy) from error
    return factory
