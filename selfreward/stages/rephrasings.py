"""Rephrasings: each chunk of a document in a policy's words, in one of the styles, used or left out for a reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from statistics import fmean
from typing import Any

from selfreward.documents.rephrase import build_message, clean, kept, reason_against, styles
from selfreward.engines.base import Completion, Decoding, SampleRequest
from selfreward.hygiene.diversity import variety
from selfreward.records import Chunk, Rephrasing
from selfreward.stages.candidates import EngineIdentity
from selfreward.stages.tools import Tools, cut
from selfreward.store import Artifact, Identity, Metrics, Stage, Work, derive_seed

SETTINGS = ("styles", "temperature", "top_p", "max_new_tokens")

_SHARD = 64


@dataclass(frozen=True)
class RephrasingsIdentity(Identity):
    """In which styles, with which words, drawn how."""

    documents: Mapping[str, Any]
    texts: tuple[str, ...]
    engine: EngineIdentity


def rephrase(config: RephrasingsIdentity, parents: Mapping[str, Artifact], work: Work, tools: Tools) -> Metrics:
    """Of each of `parents["chunks"]` that is not held out, by `parents["policy"]`."""
    chunks = [chunk for chunk in parents["chunks"].read(Chunk) if not chunk.held_out]
    names = styles(config.documents["styles"])
    decoding = Decoding(*(config.documents[name] for name in ("temperature", "top_p", "max_new_tokens")))
    engine, adapter = tools.engine_of("sampling"), tools.adapter(parents["policy"])
    chat = engine.chat

    def seed(chunk: Chunk, of: str) -> int:
        return derive_seed(work.seed, "rephrasing", chunk.chunk_id, of)

    def compute(shard: Sequence[Chunk]) -> list[Rephrasing]:
        chosen = [Random(seed(chunk, "style")).choice(names) for chunk in shard]
        requests = [
            SampleRequest(chat.render(build_message(chunk.text, style)), [seed(chunk, "text")])
            for chunk, style in zip(shard, chosen, strict=True)
        ]
        sampled = engine.sample(requests, decoding, adapter, work.advance)
        return [
            _rephrasing(chunk, style, chat.decode(made.token_ids), made)
            for chunk, style, (made,) in zip(shard, chosen, sampled, strict=True)
        ]

    work.plan(len(chunks), "chunks")
    work.planned_memory = sum(tools.plan.sampling.values())
    made = work.shards(
        cut(chunks, _SHARD), compute, Rephrasing, size=lambda shard: max(chunk.tokens for chunk in shard)
    )
    return _metrics(made)


def _rephrasing(chunk: Chunk, style: str, reply: str, made: Completion) -> Rephrasing:
    text = clean(reply)
    left_out = reason_against(chunk.text, text, style, finished=made.finished) or ""
    shares = kept(chunk.text, text)
    return Rephrasing(chunk.chunk_id, style, text, left_out, shares.numbers, shares.names)


def _metrics(made: Sequence[Rephrasing]) -> Metrics:
    used = [one for one in made if not one.left_out]
    numbers, names = ([v for one in used if (v := getattr(one, of)) is not None] for of in ("numbers", "names"))
    return {
        "rephrasings": len(made),
        "used": len(used),
        "left_out": dict(Counter(one.left_out for one in made if one.left_out).most_common()),
        "used_by_style": dict(sorted(Counter(one.style for one in used).items())),
        "numbers_kept": fmean(numbers) if numbers else None,
        "names_kept": fmean(names) if names else None,
        **variety([one.text for one in used]),
    }


REPHRASINGS = Stage("rephrasings", 7, rephrase)
