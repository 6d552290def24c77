"""What a way of making new prompts has to say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from selfreward.config import GenerationConfig

_AROUND = {('"', '"'), ("\N{LEFT DOUBLE QUOTATION MARK}", "\N{RIGHT DOUBLE QUOTATION MARK}"), ("'", "'"), ("*", "*")}


@dataclass(frozen=True)
class Ask:
    """What a policy is asked for one new prompt: a message, how its answer begins, and the prompts it is shown."""

    message: str
    opening: str
    shown: list[str]


@dataclass(frozen=True)
class Way:
    """How new prompts are asked for and read.

    `ask` takes the settings, the prompts of the source, those that were made before, and chance. `read` takes a
    policy's answer. `echo` is the ROUGE-L from which on a new prompt says what one of those shown says, or None for
    that of the settings; `texts` are the words of `ask`, and `settings` the names of those that it alone looks at.
    """

    ask: Callable[[GenerationConfig, Sequence[str], Sequence[str], Random], Ask]
    read: Callable[[str], str]
    echo: float | None
    texts: tuple[str, ...]
    settings: tuple[str, ...]


def first_paragraph(reply: str) -> str:
    """What a policy wrote before it went on to something else, without marks around it."""
    text = reply.strip().split("\n\n")[0].strip()
    while len(text) > 1 and (text[0], text[-1]) in _AROUND and text[0] not in (inside := text[1:-1]).strip("*"):
        text = inside.strip()
    return text
