"""The gate between the sources of prompts and the loop that learns from them: what is repeated, leaked or personal."""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from selfreward.config import GateConfig
from selfreward.errors import GenerationError, counted
from selfreward.hygiene.diversity import in_words, self_bleu, variety
from selfreward.hygiene.language import UNKNOWN, language
from selfreward.hygiene.personal import HOLDS_PERSONAL, ONCE_REDACTED, find_personal, redact
from selfreward.hygiene.similar import SimilarTexts
from selfreward.records import Prompt, prompt_id
from selfreward.stages.document_prompts import question_and_text
from selfreward.stages.leaks import IS_EVALUATED, LeaksIdentity, evaluated_texts, leaks_among
from selfreward.stages.tools import Tools
from selfreward.store import Artifact, Identity, Metrics, Stage, Work
from selfreward.store.identity import only

SETTINGS = ("near_duplicates", "resemblance", "personal", "language")

_SHOWN = 5  # of what was left out for one reason, for people to look at


@dataclass(frozen=True)
class GateIdentity(Identity):
    """What is looked at. Prompts that are drawn from a template share most of their words by construction: of these
    equal ones alone count."""

    gate: Mapping[str, Any]
    leaks: LeaksIdentity
    templated: bool


def gate_identity(cfg: GateConfig, leaks: LeaksIdentity, *, templated: bool) -> GateIdentity:
    """Of a run's settings."""
    in_use = only(cfg, SETTINGS)
    if templated:
        leaks = LeaksIdentity(leaks.looked_for, None, None)
        del in_use["near_duplicates"]
    if in_use.get("near_duplicates") != "drop":
        del in_use["resemblance"]
    return GateIdentity(in_use, leaks, templated)


@dataclass
class Passage:
    """Prompts on their way through: those still there, what was left out and why, and how often what was redacted."""

    prompts: list[Prompt]
    left_out: dict[str, list[str]] = field(default_factory=dict)
    redacted: Counter[str] = field(default_factory=Counter)

    def drop(self, prompts: Mapping[str, str], reason: str) -> None:
        """Leave prompts out, given by id with what to show of them."""
        if prompts:
            self.left_out[reason] = list(prompts.values())
            self.prompts = [prompt for prompt in self.prompts if prompt.prompt_id not in prompts]


def pass_gate(config: GateIdentity, parents: Mapping[str, Artifact], work: Work, tools: Tools) -> Metrics:
    """Those of `parents["prompts"]` that may be learned from. All other parents are what policies are evaluated on."""
    gate = GateConfig(**config.gate)
    passage = Passage(parents["prompts"].read(Prompt))
    came = len(passage.prompts)
    evaluations = {name: evaluated_texts(parent) for name, parent in parents.items() if name != "prompts"}
    leaks = leaks_among({p.prompt_id: p.prompt for p in passage.prompts}, evaluations, config.leaks)
    passage.drop({name: f"{leak.text} ({leak.how}: {leak.evaluated})" for name, leak in leaks.items()}, IS_EVALUATED)
    if gate.language:
        languages = (gate.language, UNKNOWN)
        others = {p.prompt_id: p.prompt for p in passage.prompts if language(p.prompt) not in languages}
        passage.drop(others, f"is not in the language {gate.language}")
    if gate.personal == "drop":
        passage.drop(_personal(passage.prompts), HOLDS_PERSONAL)
    if gate.near_duplicates == "drop" and not config.templated:
        passage.drop(_near_duplicates(passage.prompts, gate.resemblance), "is a near duplicate")
    if gate.personal == "redact":
        _redact(passage)  # last: what is redacted is no longer what was compared
    work.shards([passage.prompts], list, Prompt)
    texts = [prompt.prompt for prompt in passage.prompts]
    return {
        "came": came,
        "prompts": len(texts),
        "left_out": {reason: len(shown) for reason, shown in passage.left_out.items()},
        "examples_left_out": {reason: shown[:_SHOWN] for reason, shown in passage.left_out.items()},
        "redacted": dict(passage.redacted),
        "words": [len(in_words(text)) for text in texts],
        **variety(texts),
        "self_bleu": self_bleu(texts),
    }


def check_passed(prompts: Artifact) -> None:
    """Raise `GenerationError` where the gate let none of some prompts through."""
    metrics = prompts.metrics
    if metrics["came"] and not metrics["prompts"]:
        reasons = counted(metrics["left_out"])
        raise GenerationError(
            f"the gate lets none of {metrics['came']} prompts through ({reasons}): loosen gate, or mend the source"
        )


def _personal(prompts: Sequence[Prompt]) -> dict[str, str]:
    """Those that hold personal data, with what may be shown of them."""
    found = {prompt.prompt_id: find_personal(prompt.prompt) for prompt in prompts}
    return {p.prompt_id: redact(p.prompt, found[p.prompt_id]) for p in prompts if found[p.prompt_id]}


def _redact(passage: Passage) -> None:
    """Redact what is personal. A prompt that carries a check stays as it is: its words are what is checked."""
    redacted: dict[str, Prompt] = {}
    again: list[str] = []
    for prompt in passage.prompts:
        pieces = [] if prompt.check else find_personal(prompt.prompt)
        text = redact(prompt.prompt, pieces)
        name = prompt_id(text) if pieces else prompt.prompt_id
        if name in redacted:
            again.append(text)
            continue
        redacted[name] = dataclasses.replace(prompt, prompt_id=name, prompt=text)
        passage.redacted.update(piece.kind for piece in pieces)
    passage.prompts = list(redacted.values())
    if again:
        passage.left_out[ONCE_REDACTED] = again


def _near_duplicates(prompts: Sequence[Prompt], resemblance: float) -> dict[str, str]:
    """All but the first of those that resemble each other. Of two about one text, the questions must."""
    known: defaultdict[str, SimilarTexts] = defaultdict(lambda: SimilarTexts(resemblance))
    repeated: dict[str, str] = {}
    for prompt in prompts:
        question, about = question_and_text(prompt.prompt)
        if known[about].nearest(question):
            repeated[prompt.prompt_id] = prompt.prompt
        else:
            known[about].add(prompt.prompt_id, question)
    return repeated


GATE = Stage("gate", 8, pass_gate)
