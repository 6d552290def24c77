"""Endless requests: something to write about, and constraints that an answer is checked against."""

from __future__ import annotations

from collections.abc import Collection
from random import Random

from selfreward.simulation.checks import Check
from selfreward.simulation.conflicts import fits
from selfreward.simulation.constraints import KINDS

ASKS = (
    "Describe {}.",
    "Write a short note about {}.",
    "Tell a child about {}.",
    "Explain why people care about {}.",
    "Write a few sentences about {}.",
    "Tell me something about {}.",
    "Write a message to a friend about {}.",
    "Give some advice about {}.",
)
TOPICS = (
    "a walk in the rain|learning to cook|the first day at school|old photographs|growing tomatoes|riding a bicycle|"
    "the sea at night|a visit to a museum|moving to a new city|a lost umbrella|baking bread|the sound of trains|"
    "keeping a diary|friendship|a broken clock|birds in spring|writing letters|public libraries|a long journey|"
    "sleeping well|playing chess|a crowded market|small gardens|snow in the mountains|looking after a dog|"
    "saving money|a power cut|learning a language|lighthouses|street musicians|the smell of coffee|wooden furniture|"
    "a picnic by the lake|teaching a class|thunderstorms|mending clothes|borrowed books|early mornings|volcanoes|"
    "a family dinner|the history of maps|patience|running a small shop|fishing boats|stars and planets|honey bees|"
    "working from home|an empty theatre|swimming lessons|good manners|repairing a roof|the colour blue|autumn leaves|"
    "night shifts|choosing a gift|a neighbour's cat|drinking enough water|a first job|board games|windmills"
).split("|")


def draw(random: Random, kinds: Collection[str], most: int) -> tuple[str, list[Check]]:
    """A request with one to `most` constraints of these kinds, all of which an answer can keep."""
    available = sorted(kinds)
    random.shuffle(available)
    wanted = random.randint(1, most)
    checks: list[Check] = []
    for kind in available:
        check = Check(kind, KINDS[kind].draw(random))
        if len(checks) < wanted and fits(check, checks):
            checks.append(check)
    ask = random.choice(ASKS).format(random.choice(TOPICS))
    said = [KINDS[check.kind].say(check.parameters) for check in checks]
    return " ".join([ask, *said]), checks
