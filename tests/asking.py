"""Requests to an engine, small and alike in all tests."""

from __future__ import annotations

from selfreward.engines.base import Engine, SampleRequest

PROMPTS = ["Name a colour.", "Why is the sky blue? Answer in one sentence.", "Hi", "List three rivers, one a line."]


def ignore(units: float, tokens: int) -> None:
    """Progress that nobody watches."""


def requests(engine: Engine, answers: int = 3) -> list[SampleRequest]:
    """One for each prompt, with so many seeds, as large as derived ones are."""
    rendered = [engine.chat.render(prompt) for prompt in PROMPTS]
    return [SampleRequest(ids, [2**62 + 100 * i + k for k in range(answers)]) for i, ids in enumerate(rendered)]
