"""Contamination, as each stage looks for it that makes something to learn from: what leaks is left out. Where it should
stop the run, that is seen by what the artifact says, so that an artifact is the same in either case."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from selfreward.config import GateConfig
from selfreward.conversation import first_message
from selfreward.errors import ContaminationError
from selfreward.hygiene.contamination import Leak, complaint, find_leaks
from selfreward.hygiene.similar import length_in_words, words
from selfreward.records import Demonstration, Prompt, Rating
from selfreward.stages.tools import Tools
from selfreward.store import Artifact, Identity, Metrics, Stage, Work

IS_EVALUATED = "is evaluated on"
"""Why something is left out, in words that end a sentence about it."""

_LEAST_WORDS = 8
"""Of an answer: shorter ones are what many say, as "I'm not sure about that"."""


@dataclass(frozen=True)
class LeaksIdentity(Identity):
    """Whether leaks are looked for, and what counts as one. `None` for the two numbers: equal texts alone are leaks."""

    looked_for: bool
    run_of_words: int | None
    resemblance: float | None


NOT_LOOKED_FOR = LeaksIdentity(False, None, None)


def leaks_identity(cfg: GateConfig) -> LeaksIdentity:
    """Of a run's settings."""
    if cfg.contamination == "ignore":
        return NOT_LOOKED_FOR
    return LeaksIdentity(True, cfg.run_of_words, cfg.resemblance)


def leaks_among(
    texts: Mapping[str, str], evaluations: Mapping[str, Iterable[str]], rules: LeaksIdentity
) -> dict[str, Leak]:
    """The texts to leave out, by their keys."""
    return find_leaks(texts, evaluations, rules.run_of_words, rules.resemblance) if rules.looked_for else {}


def find_among_prompts(config: LeaksIdentity, parents: Mapping[str, Artifact], work: Work, tools: Tools) -> Metrics:
    """Those of `parents["prompts"]` that any other parent holds, what policies are evaluated on."""
    evaluations = {name: evaluated_texts(parent) for name, parent in parents.items() if name != "prompts"}
    prompts = {prompt.prompt_id: prompt.prompt for prompt in parents["prompts"].read(Prompt)}
    leaks = leaks_among(prompts, evaluations, config)
    return {"prompts": len(prompts), "leaks": len(leaks), "complaint": complaint(leaks, len(prompts), "prompts")}


def check_clean(cfg: GateConfig, *artifacts: Artifact) -> None:
    """Raise `ContaminationError` where one of them has left out what is evaluated on, unless that is asked for."""
    for artifact in artifacts:
        if cfg.contamination == "raise" and (said := artifact.metrics["complaint"]):
            raise ContaminationError(said)


def evaluated_texts(artifact: Artifact) -> list[str]:
    """What an evaluation holds: prompts that are held out, or rated answers' prompts, or prompts and people's answers,
    which a policy is asked to find likely. What a conversation begins with counts for itself: it may be a prompt
    elsewhere."""
    if artifact.manifest.stage == "demonstrations":
        people = artifact.read(Demonstration)
        answers = [one.response for one in people if says_enough(one.response)]
        return [text for one in people for text in _whole_and_begun(one.prompt)] + answers
    if artifact.manifest.stage == "ratings":
        return [text for one in artifact.read(Rating) for text in _whole_and_begun(one.prompt)]
    return [one.prompt for one in artifact.read(Prompt)]


def says_enough(answer: str) -> bool:
    """Whether it is long enough for its being said elsewhere to mean anything."""
    return length_in_words(words(answer)) >= _LEAST_WORDS


def _whole_and_begun(prompt: str) -> list[str]:
    return list(dict.fromkeys([prompt, first_message(prompt)]))


LEAKS = Stage("leaks", 1, find_among_prompts)
