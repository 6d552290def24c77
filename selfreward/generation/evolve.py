"""Prompts made out of others, in depth and in breadth, in the way of Evol-Instruct (arXiv 2304.12244): with rephrasing
beside, fewer operations in depth, and the filters of all new prompts in place of its elimination.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from selfreward.config import GenerationConfig, listed_among
from selfreward.generation.base import Ask, Way, first_paragraph
from selfreward.texts import fill, read_text

MESSAGE = read_text(__file__, "evolve.txt")
OPERATIONS = {
    "paraphrase": "Say the same in other words. Ask for nothing more and nothing less.",
    "constrain": "Keep what is asked and add one condition that the answer has to meet, such as a length, a form, "
    "a reader, or something to leave out.",
    "deepen": "Keep the subject and make it harder to answer well: ask for reasons, for a special case, or for the "
    "step after it.",
    "broaden": "Ask for something of the same kind about another subject, one that comes up less often.",
}
_UNCHANGED = 0.95


def ask(cfg: GenerationConfig, seeds: Sequence[str], made: Sequence[str], random: Random) -> Ask:
    """One prompt, of the source or, with the chance `cfg.generated_share`, made before, and one operation on it."""
    pool = made if made and random.random() < cfg.generated_share else seeds
    prompt = random.choice(pool)
    operation = random.choice(operations(cfg))
    return Ask(fill(MESSAGE, operation=OPERATIONS[operation], request=prompt), "New request:", [prompt])


def operations(cfg: GenerationConfig) -> list[str]:
    """Those that the settings name. Raises `ConfigError` for one that isn't there, or none."""
    return listed_among(OPERATIONS, "generation.operations", cfg.operations)


WAY = Way(ask, first_paragraph, _UNCHANGED, (MESSAGE, *OPERATIONS.values()), ("operations",))
