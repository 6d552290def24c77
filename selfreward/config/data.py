"""What a policy learns from: prompts, documents, what people wrote, and what must be true of them."""

from __future__ import annotations

from dataclasses import dataclass

from omegaconf import MISSING

from selfreward.config.ranges import choice, number
from selfreward.store.identity import Execution

TEMPLATED = ("constraints", "reasoning")
"""Kinds of prompts that are drawn from templates, without end, each with a check of its answer."""


@dataclass
class PromptsConfig(Execution):
    """Where prompts come from, and how many each iteration takes."""

    kind: str = MISSING  # a key of `selfreward.sources.SOURCES`
    path: str | None = None  # the file, for kind=file
    name: str | None = None  # the `datasets` name, for kind=dataset
    subset: str | None = None  # its configuration, for kind=dataset; None: it has but one
    revision: str | None = None  # its commit, for kind=dataset
    split: str = "train"  # its split, for kind=dataset
    prompt_column: str = "prompt"
    category_column: str | None = None  # pass rates are shown by it where answers can be checked
    answer_column: str | None = None  # the right answer, or a solution that ends in "#### <answer>"
    held_out_column: str | None = None  # a column that says "held_out" for prompts kept for evaluation
    per_iteration: int = number(16, least=1)
    held_out: int = number(24, least=1)  # prompts kept for evaluation, never trained on
    most_constraints: int = number(2, least=1)  # on one answer, for kind=constraints
    unseen_kinds: str = ""  # kinds of constraints, joined by commas, that half of the held-out prompts alone have
    tasks: str = ""  # of reasoning-gym, joined by commas, for kind=reasoning
    level: int = number(0, least=0)  # of difficulty of reasoning-gym's tasks; 0 is the easiest


@dataclass
class GenerationConfig(Execution):
    """How a policy writes new prompts, which are then asked in place of the source's own."""

    kind: str = "none"  # none, documents, or a key of `selfreward.generation.WAYS`
    writer: str = choice("current", "current", "policy_0")  # the policy of the iteration, or policy 0
    proposals: int = number(64, least=1)  # written in one round
    rounds: int = number(20, least=1)  # of one iteration at most; the run stops if they keep too few
    examples: int = number(8, least=1)  # prompts that are shown, for self_instruct
    generated_share: float = number(0.25, least=0, most=1)  # of what is shown: prompts that were made before
    operations: str = "paraphrase,constrain,deepen,broaden"  # joined by commas, for evolve
    temperature: float = number(0.8, above=0)
    top_p: float = number(0.9, above=0, most=1)
    max_new_tokens: int = number(96, least=1)
    most_rouge: float = number(0.7, above=0, most=1)  # ROUGE-L with any other prompt; above, it is left out
    resemblance: float = number(0.7, above=0, most=1)  # share of word triples that makes a near duplicate
    least_words: int = number(4, least=1)
    most_words: int = number(120, least=1)
    keywords: str = "image,images,picture,pictures,photo,graph,plot,video,audio,file,attached,link,website,draw"
    language: str | None = "en"  # ISO 639-1; None: any


@dataclass
class DocumentsConfig(Execution):
    """Documents for continued pretraining of policy 0, before tuning and the loop; the optimiser is `tuning`'s."""

    path: str | None = None  # a folder of .txt and .md files, or a .jsonl or .parquet; None: there are none
    text_column: str = "text"
    chunk_tokens: int = number(300, least=16)
    held_out: int = number(32, least=1)  # documents to measure perplexity on
    styles: str = "easy,medium,hard,question_answer"  # joined by commas; each chunk is rephrased in one of them
    rephrased_share: float = number(0.5, least=0, most=1)  # of the tokens that are learned from
    most_tokens: int | None = number(None, least=0)  # in one of tuning.epochs; 0: none; None: twice the real ones
    temperature: float = number(0.7, above=0)
    top_p: float = number(0.9, above=0, most=1)
    max_new_tokens: int = number(384, least=1)


@dataclass
class SeedFileConfig(Execution):
    """A file of what people wrote, and how it is read."""

    path: str | None = None  # .jsonl, .jsonl.gz or .parquet; None: there is none
    format: str = "columns"  # a key of `selfreward.seeds.formats.FORMATS`
    prompt_column: str = "prompt"  # text, or the messages so far, each with role and content
    response_column: str = "response"
    score_column: str = "score"
    responses_column: str = "responses"  # the answers to a prompt, for format=groups
    lowest_score: float = 0.0
    highest_score: float = 5.0
    held_out: int = number(0, least=0)  # prompts kept apart: to measure by, or for evaluation.judge=independent


@dataclass
class DataConfig(Execution):
    """What is done about rows of data files that can't be used, or are too long."""

    on_error: str = choice("raise", "raise", "skip")  # stop and name the row, or count such rows and go on
    max_characters: int = number(20_000, least=1)  # of a prompt or an answer; longer ones are left out, and counted


@dataclass
class GateConfig(Execution):
    """What prompts must pass before a policy learns from them. `contamination` and `personal` also apply to people's
    answers and ratings, and to documents."""

    contamination: str = choice("raise", "raise", "drop", "ignore")  # of prompts that an evaluation holds too
    run_of_words: int = number(13, least=3)  # in common with an evaluation that make a leak; a Chinese letter is half
    resemblance: float = number(0.8, above=0, most=1)  # share of word triples that makes a leak, or a near duplicate
    near_duplicates: str = choice("drop", "drop", "ignore")
    personal: str = choice("redact", "redact", "drop", "ignore")  # e-mail, phone, card and postal address
    language: str | None = None  # ISO 639-1: others are left out; None: any
    embedding_model: str | None = None  # a folder or hub name; measures how far prompts are apart
