"""A conversation so far as one text, the last turn of which is to be answered."""

from __future__ import annotations

from collections.abc import Sequence

_USER, _ASSISTANT = "User: ", "Assistant: "
_APART = "\n\n"


def join(turns: Sequence[str]) -> str:
    """The text of turns that alternate from the user's first to the user's last; of one turn it is that turn."""
    if len(turns) == 1:
        return turns[0]
    return _APART.join(f"{_ASSISTANT if place % 2 else _USER}{turn}" for place, turn in enumerate(turns))


def first_message(prompt: str) -> str:
    """What a conversation begins with; a request alone is its own."""
    if not _is_conversation(prompt):
        return prompt
    return prompt.removeprefix(_USER).split(f"{_APART}{_ASSISTANT}", 1)[0]


def last_request(prompt: str) -> tuple[str, str]:
    """What came before the request that is to be answered, and the request; nothing comes before one alone."""
    before, apart, request = prompt.rpartition(f"{_APART}{_USER}")
    return (before, request) if apart and _is_conversation(before) else ("", prompt)


def _is_conversation(text: str) -> bool:
    return text.startswith(_USER) and f"{_APART}{_ASSISTANT}" in text
