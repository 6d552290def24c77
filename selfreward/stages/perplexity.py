"""How surprised a policy is by what it did not learn from: documents, and people's answers."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from selfreward.conversation import first_message
from selfreward.errors import ConfigError
from selfreward.intervals import bootstrap_ratio
from selfreward.records import Chunk, Demonstration
from selfreward.stages.candidates import EngineIdentity
from selfreward.stages.tools import Tools
from selfreward.store import Artifact, Identity, Metrics, Stage, Work


@dataclass(frozen=True)
class PerplexityIdentity(Identity):
    """On which engine, and how sure one is to be."""

    engine: EngineIdentity
    bootstrap_samples: int
    confidence: float


@dataclass(frozen=True)
class Text:
    """Context tokens, the tokens that are scored, and the document or conversation that they belong to."""

    before: list[int]
    tokens: list[int]
    name: str


def perplexity(config: PerplexityIdentity, parents: Mapping[str, Artifact], work: Work, tools: Tools) -> Metrics:
    """Of those of `parents["chunks"]` that are held out, under `parents["policy"]`, without the first token of each.

    Raises `ConfigError` where nothing is left of them.
    """
    chat = tools.engine_of("sampling").chat
    texts: list[Text] = []
    for chunk in parents["chunks"].read(Chunk):
        ids = chat.document(chunk.text)[:-1]  # nobody ends a chunk but us
        if chunk.held_out and len(ids) > 1:
            texts.append(Text(ids[:1], ids[1:], chunk.document))
    if not texts:
        held_out = tools.cfg.documents.held_out
        raise ConfigError(
            "documents.held_out", held_out, "all of them are a token long; hold out more, or longer texts"
        )
    return _measure(texts, config, parents, work, tools)


def imitation(config: PerplexityIdentity, parents: Mapping[str, Artifact], work: Work, tools: Tools) -> Metrics:
    """Of people's answers in `parents["demonstrations"]`, under `parents["policy"]`."""
    chat = tools.engine_of("sampling").chat
    people = parents["demonstrations"].read(Demonstration)
    texts = [Text(chat.render(one.prompt), chat.answer(one.response), first_message(one.prompt)) for one in people]
    return _measure(texts, config, parents, work, tools)


def _measure(
    texts: Sequence[Text], config: PerplexityIdentity, parents: Mapping[str, Artifact], work: Work, tools: Tools
) -> Metrics:
    """The exponential of the mean negative log-likelihood of a token, with an interval by drawing whole documents, or
    conversations, for the bootstrap."""
    work.plan(len(texts), "texts")
    before, tokens = [text.before for text in texts], [text.tokens for text in texts]
    engine, adapter = tools.engine_of("sampling"), tools.adapter(parents["policy"])
    found = work.group.broadcast(lambda: engine.logprobs(before, tokens, adapter, work.advance))
    by_name: defaultdict[str, list[float]] = defaultdict(list)
    for text, logprobs in zip(texts, found, strict=True):
        by_name[text.name] += logprobs
    nats = [-math.fsum(logprobs) for logprobs in by_name.values()]
    counts = [len(logprobs) for logprobs in by_name.values()]
    around = bootstrap_ratio(nats, counts, config.bootstrap_samples, config.confidence, work.seed)
    return {
        "texts": len(nats),
        "tokens": sum(counts),
        "perplexity": math.exp(math.fsum(nats) / sum(counts)),
        "perplexity_low": math.exp(around.low) if around else None,
        "perplexity_high": math.exp(around.high) if around else None,
        "nats": nats,
        "tokens_by_text": counts,
    }


PERPLEXITY = Stage("perplexity", 4, perplexity)
IMITATION = Stage("imitation", 4, imitation)
