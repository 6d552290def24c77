"""A data card: where what an iteration learns from came from, what was left out at each step, and what it is like."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from selfreward.errors import counted
from selfreward.records import Chunk, Prompt, Rephrasing
from selfreward.tracking.metrics import Iteration
from selfreward.tracking.numbers import percent

SHOWN = 20
"""Texts to read in a card."""

_LACKS = "A policy learns from nothing else than what is here: what it lacks, the policy does not learn."
_HABITS = "What a policy wrote carries its habits and its errors; filters look at its form, not at its sense."
_PATTERNS = "Personal data is found by patterns: names and unusual forms pass."
_NOT_LOOKED_FOR = "Personal data was not looked for."
_OTHER_WORDS = "A text that says what an evaluation says in other words passes the check against it."


@dataclass(frozen=True)
class Step:
    """What is there at a step, or what was left out at it, with one text of that or the place of one."""

    name: str
    count: int
    example: str = ""


@dataclass(frozen=True)
class DataCard:
    """Of what an iteration learns from: one sentence on the origin, the steps, facts by name, texts to read, risks."""

    iteration: int
    title: str
    origin: str
    steps: list[Step]
    facts: dict[str, str]
    examples: list[str]
    risks: list[str]


def data_cards(iterations: Sequence[Iteration], examples: int = SHOWN) -> list[DataCard]:
    """The cards of all iterations: of prompts, of documents, and of what people wrote."""
    cards: list[DataCard] = []
    for number, iteration in enumerate(iterations):
        if "chunks" in iteration:
            cards.append(_documents_card(number, iteration, examples))
        cards += [_people_card(number, name, iteration) for name in ("demonstrations", "ratings") if name in iteration]
        if "prompts" in iteration:
            cards.append(_prompts_card(number, iteration, examples))
    return cards


def markdown(card: DataCard) -> str:
    """A card as text."""
    rows = [f"| {step.name} | {step.count:,} | {_cell(step.example)} |" for step in card.steps]
    parts = [
        f"# {card.title}",
        card.origin,
        "\n".join(["| step | number | left out, for example |", "| --- | ---: | --- |", *rows]),
        "\n".join(f"- {name}: {value}" for name, value in card.facts.items()),
    ]
    if card.examples:
        parts += ["## Some of it", "\n".join(f"{n}. {_cell(text)}" for n, text in enumerate(card.examples, start=1))]
    parts += ["## Risks", "\n".join(f"- {risk}" for risk in card.risks)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _prompts_card(number: int, iteration: Iteration, examples: int) -> DataCard:
    source, gate = iteration["source"], iteration["prompts"]
    steps: list[Step] = []
    written = source.manifest.stage != "prompts"
    if source.manifest.stage == "new_prompts":
        kind = source.manifest.config["generation"]["kind"]
        rounds = source.metrics["rounds"]
        origin = f"Written by a policy ({kind}) in {rounds} round{'s' if rounds > 1 else ''}."
        steps.append(Step("proposals", source.metrics["looked_at"]))
        steps += _left_out(source.metrics, "examples_left_out")
    elif source.manifest.stage == "document_prompts":
        origin = "Questions that a policy asked about documents."
        steps.append(Step("questions, for all iterations", source.metrics["pool"]))
    else:
        origin = f"Taken from {source.metrics['origin']}."
        steps += _left_out(source.metrics, "first_left_out", "left out of the whole source")
    steps.append(Step("came to the gate", gate.metrics["came"]))
    steps += _left_out(gate.metrics, "examples_left_out")
    if too_long := iteration["candidates"].metrics["prompts_too_long"]:
        steps.append(Step("left out: has more tokens than sampling.max_prompt_tokens", too_long))
    steps.append(Step("asked", gate.metrics["prompts"] - too_long))
    facts = {name: value for name, value in _facts(iteration) if value}
    shown = [prompt.prompt for prompt in islice(gate.read(Prompt), examples)]
    personal = _personal(gate.manifest.config["gate"]["personal"])
    risks = [_LACKS, *([_HABITS] if written else []), personal, _OTHER_WORDS]
    return DataCard(number, f"Prompts of iteration {number}", origin, steps, facts, shown, risks)


def _documents_card(number: int, iteration: Iteration, examples: int) -> DataCard:
    """Of documents, and of what a policy made of them where it rephrased any."""
    chunks, rephrasings = iteration["chunks"], iteration.get("rephrasings")
    learned = iteration["pretrained"].metrics if "pretrained" in iteration else {}  # no step is taken for 0 tokens
    steps = [*_left_out(chunks.metrics, "first_left_out"), Step("documents", chunks.metrics["documents"])]
    facts = {"documents held out": f"{chunks.metrics['held_out']}"}
    texts = chunks.read(Chunk)
    shown = [chunk.text for chunk in texts if not chunk.held_out]
    steps.append(Step("chunks of those not held out", len(shown)))
    title, origin = "Documents", f"Chunks of the documents in {chunks.metrics['file']}"
    risks = [_LACKS, _personal(chunks.manifest.config["personal"]), _OTHER_WORDS]
    taken = [Step("tokens of real texts learned from, in an epoch", learned.get("real_tokens", 0))]
    if rephrasings:
        metrics = rephrasings.metrics
        steps += [Step(f"left out: {reason}", count) for reason, count in metrics["left_out"].items()]
        steps.append(Step("rephrasings used", metrics["used"]))
        facts["styles"] = ", ".join(f"{name} {count}" for name, count in metrics["used_by_style"].items())
        facts |= {f"{kind} kept": percent(metrics[f"{kind}_kept"]) for kind in ("numbers", "names")}
        if metrics["used"]:
            facts |= {"words": f"{metrics['mean_words']:.1f} on average", **_variety(metrics)}
        before = {chunk.chunk_id: chunk.text for chunk in texts}
        used = [one for one in rephrasings.read(Rephrasing) if not one.left_out]
        shown = [f"{before[one.chunk_id]} ({one.style}:) {one.text}" for one in used]
        title, origin = "Rephrased documents", f"{origin}, each in a policy's own words"
        risks.insert(1, _HABITS)
        taken.append(Step("tokens of rephrasings learned from, in an epoch", learned.get("rephrased_tokens", 0)))
    facts |= _redacted(chunks.metrics)
    return DataCard(number, title, f"{origin}.", [*steps, *taken], facts, shown[:examples], risks)


def _people_card(number: int, stage: str, iteration: Iteration) -> DataCard:
    seeds = iteration[stage]
    metrics = seeds.metrics
    read = seeds.manifest.config["reading"]["format"]
    origin = f"Read from {metrics['file']}, a file of people's {stage} in the format {read}."
    steps = [*_left_out(metrics, "first_left_out"), Step("fit to learn from", seeds.manifest.rows)]
    learned = iteration["policy"].metrics
    steps.append(Step("drawn to learn from", learned["drawn"][stage]))
    facts = {"answers kept apart, to measure by or for an independent judge": metrics["held_out"]}
    facts |= {"examples with more tokens than tuning.max_length, of all that was drawn": learned["too_long"]}
    shown = {name: f"{count}" for name, count in facts.items() if count} | _redacted(metrics)
    risks = [_LACKS, _personal(seeds.manifest.config["personal"]), _OTHER_WORDS]
    return DataCard(number, f"People's {stage}", origin, steps, shown, [], risks)


def _left_out(metrics: Mapping[str, object], shown: str, said: str = "left out") -> Iterator[Step]:
    """What was left out, with the first of the texts, or the place, that the metric `shown` has for a reason."""
    counts, texts = metrics["left_out"], metrics[shown]
    assert isinstance(counts, Mapping) and isinstance(texts, Mapping)
    for reason, count in counts.items():
        example = texts.get(reason, "")
        yield Step(f"{said}: {reason}", count, example if isinstance(example, str) else next(iter(example), ""))


def _facts(iteration: Iteration) -> Iterator[tuple[str, str]]:
    gate, source = iteration["prompts"].metrics, iteration["source"].metrics
    words = sorted(gate["words"])
    if words:
        middle, last = words[len(words) // 2], words[-1]
        yield "words", f"{gate['mean_words']:.1f} on average, {middle} in the middle, {last} at most"
    yield from _variety(gate).items()
    yield "self-BLEU", f"{gate['self_bleu']:.2f}"
    if source.get("mean_nearest_seed") is not None:
        yield "ROUGE-L to the nearest seed", f"{source['mean_nearest_seed']:.2f} on average"
    apart = iteration["embeddings"].metrics if "embeddings" in iteration else {}
    if "mean_distance" in apart:
        yield "mean distance of embeddings", f"{apart['mean_distance']:.2f}"
        yield "evenness of their clusters", f"{apart['cluster_evenness']:.2f}"
    yield from _redacted(gate).items()


def _redacted(metrics: Mapping[str, Any]) -> dict[str, str]:
    return {"redacted": counted(metrics["redacted"])} if metrics["redacted"] else {}


def _personal(setting: str) -> str:
    return _NOT_LOOKED_FOR if setting == "ignore" else _PATTERNS


def _variety(metrics: Mapping[str, Any]) -> dict[str, str]:
    return {
        "languages": ", ".join(f"{name} {count}" for name, count in metrics["languages"].items()),
        "distinct-1, distinct-2": f"{metrics['distinct_1']:.2f}, {metrics['distinct_2']:.2f}",
    }


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
