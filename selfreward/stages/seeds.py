"""What people wrote, cleaned, as artifacts: later stages don't depend on the files."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from selfreward.config import DataConfig, SeedFileConfig
from selfreward.errors import ConfigError
from selfreward.hygiene.contamination import complaint
from selfreward.hygiene.personal import HOLDS_PERSONAL, ONCE_REDACTED, find_personal, redacted
from selfreward.records import Demonstration, Rating, prompt_id
from selfreward.seeds.formats import FORMATS
from selfreward.seeds.read import answer_key, read_demonstrations, read_ratings
from selfreward.stages.leaks import IS_EVALUATED, LeaksIdentity, evaluated_texts, leaks_among, says_enough
from selfreward.stages.tools import Tools
from selfreward.store import Artifact, Identity, Metrics, Stage, Work
from selfreward.store.identity import file_sha256, only


@dataclass(frozen=True)
class SeedsIdentity(Identity):
    """Which file by its bytes, how it is read and cleaned, and which part of it. `personal` is what becomes of personal
    data."""

    key: str  # tuning.demonstrations, say
    content: str
    reading: Mapping[str, Any]
    cleaning: Mapping[str, Any]
    leaks: LeaksIdentity
    personal: str
    held_out: bool


def seeds_identity(
    key: str, file: SeedFileConfig, data: DataConfig, leaks: LeaksIdentity, personal: str, *, held_out: bool = False
) -> SeedsIdentity:
    """Of what is learned from, or of what is kept apart."""
    reading = only(file, ("format", "held_out", *FORMATS[file.format].settings(key)))
    content, cleaning = file_sha256(Path(str(file.path))), dataclasses.asdict(data)
    return SeedsIdentity(key, content, reading, cleaning, leaks, personal, held_out)


def select_seeds(
    config: SeedsIdentity, parents: Mapping[str, Artifact], work: Work, tools: Tools, *, record: type[Any]
) -> Metrics:
    """One part of a file. None of the prompts of `parents` is in it: they are there to measure by. What holds one of
    them in other words around it is a leak, and so is an answer to learn that holds one, or an answer to measure by.

    Personal data is redacted in what is left, or that which holds some left out.

    Raises `ConfigError` where nothing is left.
    """
    evaluations = {name: evaluated_texts(parent) for name, parent in parents.items()}
    apart = {prompt_id(text) for texts in evaluations.values() for text in texts}
    read = read_demonstrations if record is Demonstration else read_ratings
    file = SeedFileConfig(path=tools.cfg.seed_files[config.key].path, **config.reading)
    seeds = read(config.key, file, DataConfig(**config.cleaning))
    part: list[Any] = [*(seeds.held_out if config.held_out else seeds.train)]
    chosen = [seed for seed in part if seed.prompt_id not in apart]
    kept, complained = _without_leaks(chosen, evaluations, config.leaks)
    if record is Demonstration and not config.held_out:
        kept, of_answers = _without_told(kept, evaluations, config.leaks)
        complained = complained or of_answers
    if not kept:
        if config.held_out:
            raise ConfigError(f"{config.key}.held_out", file.held_out, "all of them are evaluated on; hold out more")
        raise ConfigError(f"{config.key}.path", file.path, "all its prompts are evaluated on; name another file")
    left_out, found = dict(seeds.skipped.counts), Counter[str]()
    if len(chosen) < len(part):
        left_out["is a prompt that is kept to measure by"] = len(part) - len(chosen)
    if len(kept) < len(chosen):
        left_out[IS_EVALUATED] = len(chosen) - len(kept)
    if config.personal == "redact":
        impersonal = _redacted(kept, found)
        if len(impersonal) < len(kept):
            left_out[ONCE_REDACTED] = len(kept) - len(impersonal)
        kept = impersonal
    if config.personal == "drop":
        impersonal = [seed for seed in kept if not find_personal(f"{seed.prompt}\n\n{seed.response}")]
        if len(impersonal) < len(kept):
            left_out[HOLDS_PERSONAL] = len(kept) - len(impersonal)
        kept = impersonal
        if not kept:
            raise ConfigError("gate.personal", "drop", f"all that is left of {file.path} holds some; use redact")
    work.shards([kept], list, record)
    return {
        "held_out": len(seeds.held_out),
        "left_out": left_out,
        "first_left_out": seeds.skipped.first,
        "complaint": complained,
        "redacted": dict(found),
        "file": Path(str(file.path)).name,
    }


def _without_leaks(
    seeds: list[Any], evaluations: Mapping[str, list[str]], rules: LeaksIdentity
) -> tuple[list[Any], str | None]:
    """Those whose prompts no evaluation holds, and what is to be said of the others."""
    prompts = {seed.prompt_id: seed.prompt for seed in seeds}
    leaks = leaks_among(prompts, evaluations, rules)
    return [seed for seed in seeds if seed.prompt_id not in leaks], complaint(leaks, len(prompts), "people's prompts")


def _without_told(
    seeds: list[Any], evaluations: Mapping[str, list[str]], rules: LeaksIdentity
) -> tuple[list[Any], str | None]:
    """The same of answers, where they are long enough to say anything."""
    answers = {str(number): seed.response for number, seed in enumerate(seeds) if says_enough(seed.response)}
    said = {name: [text for text in texts if says_enough(text)] for name, texts in evaluations.items()}
    leaks = leaks_among(answers, said, rules)
    kept = [seed for number, seed in enumerate(seeds) if str(number) not in leaks]
    return kept, complaint(leaks, len(answers), "people's answers")


def _redacted(seeds: list[Any], found: Counter[str]) -> list[Any]:
    """All of them without personal data; of those that become equal the first alone."""
    impersonal: dict[Any, Any] = {}
    for seed in seeds:
        prompt, response = redacted(seed.prompt, found), redacted(seed.response, found)
        changed = dataclasses.replace(seed, prompt_id=prompt_id(prompt), prompt=prompt, response=response)
        impersonal.setdefault(answer_key(changed), changed)
    return list(impersonal.values())


_VERSION = 8
DEMONSTRATIONS = Stage("demonstrations", _VERSION, partial(select_seeds, record=Demonstration))
RATINGS = Stage("ratings", _VERSION, partial(select_seeds, record=Rating))
