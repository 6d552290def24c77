"""Contamination, as each stage looks for it that makes something to learn from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from selfreward.conversation import first_message
from selfreward.errors import ContaminationError
from selfreward.hygiene.contamination import Leak, complaint, find_leaks
from selfreward.hygiene.similar import length_in_words, words
from selfreward.records import Demonstration, Prompt, Rating
from selfreward.store import Artifact, Identity

_LEAST_WORDS = 8
"""Of an answer: shorter ones are what many say, as "I'm not sure about that"."""


@dataclass(frozen=True)
class LeaksIdentity(Identity):
    """What counts as a leak, and what is done about it. `None` for the two numbers: equal texts alone are leaks."""

    contamination: str  # raise, drop or ignore
    run_of_words: int | None
    resemblance: float | None

    @property
    def never_raising(self) -> LeaksIdentity:
        """The same for texts that nobody can take out of a file: what would stop the run is left out instead."""
        return replace(self, contamination="drop") if self.contamination == "raise" else self


def leaks_among(
    texts: Mapping[str, str], evaluations: Mapping[str, Iterable[str]], rules: LeaksIdentity, what: str
) -> dict[str, Leak]:
    """The texts to leave out, by their keys. `what` says in the plural what they are.

    Raises `ContaminationError` where there are any, unless the rules say otherwise.
    """
    if rules.contamination == "ignore":
        return {}
    leaks = find_leaks(texts, evaluations, rules.run_of_words, rules.resemblance)
    if leaks and rules.contamination == "raise":
        raise ContaminationError(complaint(list(leaks.values()), len(texts), what))
    return leaks


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
