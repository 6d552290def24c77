"""Procedural reasoning problems with a check, without end: tasks of the `reasoning-gym` package by name and level."""

from __future__ import annotations

from functools import partial
from importlib.metadata import version
from pathlib import Path
from random import Random

from selfreward.config import DataConfig, PromptsConfig, listed
from selfreward.errors import ConfigError
from selfreward.records import Prompt, prompt_id
from selfreward.rows import Skipped
from selfreward.simulation import reasoning
from selfreward.simulation.checks import Check, dump
from selfreward.sources.pool import HELD_OUT_SEED, EndlessPool, draw_distinct, identify
from selfreward.store.identity import digest, file_sha256


def load(cfg: PromptsConfig, data: DataConfig) -> EndlessPool:
    """Problems of `cfg.tasks`, each as often, at `cfg.level`. The package's version is part of what they are.

    Raises `ConfigError` where the package is missing, and for a task that isn't there.
    """
    tasks = sorted({*listed(cfg.tasks)})
    if not tasks:
        raise ConfigError("prompts.tasks", cfg.tasks, "name tasks of reasoning-gym, joined by commas: chain_sum, say")
    for task in tasks:
        reasoning.problem(task, cfg.level, 0)
    words = file_sha256(Path(str(reasoning.__file__)))
    content = digest([version("reasoning-gym"), words, tasks, cfg.level])
    draw = partial(_draw, tasks=tasks, level=cfg.level)
    held_out = draw_distinct(draw, cfg.held_out, HELD_OUT_SEED, "prompts.held_out")
    return EndlessPool(identify(cfg, content), [], list(held_out.values()), Skipped(), draw)


def _draw(random: Random, *, tasks: list[str], level: int) -> Prompt:
    drawn = {"task": random.choice(tasks), "level": level, "seed": random.randrange(2**31)}
    text = reasoning.problem(**drawn)
    return Prompt(prompt_id(text), text, drawn["task"], dump([Check("reasoning", drawn)]))
