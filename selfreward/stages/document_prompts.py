"""Questions about documents as prompts: those that a policy asked when it rephrased a text, with the text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import zip_longest
from random import Random

from selfreward.documents.rephrase import questions
from selfreward.errors import ConfigError
from selfreward.records import Chunk, Prompt, Rephrasing, prompt_id
from selfreward.stages.tools import Tools
from selfreward.store import Artifact, Identity, Metrics, Stage, Work

_CATEGORY = "documents"
_ABOUT = "\n\nAnswer from this text alone:\n\n"


@dataclass(frozen=True)
class DocumentPromptsIdentity(Identity):
    """Which of the questions: those of an iteration."""

    iteration: int
    per_iteration: int


def ask_about(config: DocumentPromptsIdentity, parents: Mapping[str, Artifact], work: Work, tools: Tools) -> Metrics:
    """Questions from `parents["rephrasings"]` about `parents["chunks"]`; none comes in two iterations.

    A text's second question comes after the first ones about all texts, so that an iteration asks about many.

    Raises `ConfigError` where there are too few.
    """
    texts = {chunk.chunk_id: chunk.text for chunk in parents["chunks"].read(Chunk)}
    about = [
        [_prompt(question, texts[one.chunk_id]) for question in dict.fromkeys(questions(one.text))]
        for one in parents["rephrasings"].read(Rephrasing)
        if one.style == "question_answer" and not one.left_out
    ]
    in_turn = zip_longest(*Random(work.seed).sample(about, len(about)))
    found = {prompt.prompt_id: prompt for asked in in_turn for prompt in asked if prompt}  # a text may stand twice
    prompts = list(found.values())
    iterations = max(tools.cfg.iteration, config.iteration)  # what the last one lacks is said before the first begins
    if iterations * config.per_iteration > len(prompts):
        most = len(prompts) // iterations
        use = f"use at most {most}, or more documents" if most else "use more documents"
        remedy = f"the documents gave {len(prompts)} questions for {iterations} iterations; {use}"
        raise ConfigError("prompts.per_iteration", config.per_iteration, remedy)
    end = config.iteration * config.per_iteration
    work.shards([prompts[end - config.per_iteration : end]], list, Prompt)
    return {"prompts": config.per_iteration, "pool": len(prompts)}


def _prompt(question: str, text: str) -> Prompt:
    asked = f"{question}{_ABOUT}{text}"
    return Prompt(prompt_id(asked), asked, _CATEGORY)


def question_and_text(prompt: str) -> tuple[str, str]:
    """What a prompt asks, and the text that it asks about; none for a prompt of another kind."""
    question, _, text = prompt.partition(_ABOUT)
    return question, text


DOCUMENT_PROMPTS = Stage("document_prompts", 3, ask_about)
