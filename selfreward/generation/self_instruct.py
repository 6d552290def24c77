"""Self-Instruct (arXiv 2212.10560): some prompts are shown, and the policy writes one more."""

from __future__ import annotations

import re
from collections.abc import Sequence
from random import Random

from selfreward.config import GenerationConfig
from selfreward.generation.base import Ask, Way, first_paragraph
from selfreward.texts import fill, read_text

MESSAGE = read_text(__file__, "self_instruct.txt")
_NEXT = re.compile(r"\n\s*Request\b")


def ask(cfg: GenerationConfig, seeds: Sequence[str], made: Sequence[str], random: Random) -> Ask:
    """`cfg.examples` prompts, of which `cfg.generated_share` were made before, as far as there are so many."""
    generated = min(round(cfg.examples * cfg.generated_share), len(made))
    shown = random.sample(seeds, min(cfg.examples - generated, len(seeds))) + random.sample(made, generated)
    random.shuffle(shown)
    listed = "\n".join(f"Request {number}: {' '.join(text.split())}" for number, text in enumerate(shown, start=1))
    return Ask(fill(MESSAGE, count=str(len(shown)), requests=listed), f"Request {len(shown) + 1}:", shown)


def read(reply: str) -> str:
    """The first request that was written."""
    return first_paragraph(_NEXT.split(reply.strip())[0])


WAY = Way(ask, read, None, (MESSAGE,), ("examples",))
