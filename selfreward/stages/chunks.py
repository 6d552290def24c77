"""Documents in chunks, as an artifact: later stages don't depend on the files."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfreward.config import DocumentsConfig
from selfreward.documents.chunks import cut_document
from selfreward.documents.read import documents_content, read_documents
from selfreward.errors import ConfigError, counted
from selfreward.hygiene.contamination import complaint
from selfreward.hygiene.personal import HOLDS_PERSONAL, find_personal, redacted
from selfreward.records import Chunk, prompt_id
from selfreward.stages.leaks import IS_EVALUATED, LeaksIdentity, evaluated_texts, leaks_among
from selfreward.stages.tools import Tools
from selfreward.store import Artifact, Identity, Metrics, Stage, Work
from selfreward.store.identity import only

SETTINGS = ("text_column", "chunk_tokens", "held_out")


@dataclass(frozen=True)
class ChunksIdentity(Identity):
    """Which documents by their bytes, how they are cut, and what becomes of `personal` data; the parent is the policy
    whose tokens count."""

    content: str
    documents: Mapping[str, Any]
    on_error: str
    leaks: LeaksIdentity
    personal: str


def chunks_identity(cfg: DocumentsConfig, on_error: str, leaks: LeaksIdentity, personal: str) -> ChunksIdentity:
    """Of the documents of a run."""
    return ChunksIdentity(documents_content(Path(str(cfg.path))), only(cfg, SETTINGS), on_error, leaks, personal)


def cut_documents(config: ChunksIdentity, parents: Mapping[str, Artifact], work: Work, tools: Tools) -> Metrics:
    """All chunks in their order. Those documents are held out whose texts' hashes are smallest: no seed changes it.

    No chunk is learned from that holds what is held out here, or a text of an evaluation, which is any other parent
    than the policy. In what is learned from, personal data is redacted, or the chunk left out.

    Raises `ConfigError` where none is left to learn from.
    """
    cfg = DocumentsConfig(path=tools.cfg.documents.path, **config.documents)
    documents, skipped = read_documents(cfg, config.on_error)
    if len(documents) <= cfg.held_out:
        remedy = f"there are {len(documents)} documents; hold out fewer"
        if len(documents) == 1:
            remedy = "there is one document; name more, or cut it into several files"
        raise ConfigError("documents.held_out", cfg.held_out, remedy)
    apart = set(sorted(prompt_id(text) for _, text in documents)[: cfg.held_out])
    count = tools.local_engine.chat.count
    chunks = [
        Chunk(prompt_id(f"{prompt_id(text)}\n{number}\n{part}"), name, part, count(part), prompt_id(text) in apart)
        for name, text in documents
        for number, part in enumerate(cut_document(text, cfg.chunk_tokens, count))
    ]
    evaluations = {name: evaluated_texts(parent) for name, parent in parents.items() if name != "policy"}
    evaluations["the documents held out"] = [chunk.text for chunk in chunks if chunk.held_out]
    learned = {chunk.chunk_id: chunk.text for chunk in chunks if not chunk.held_out}
    leaks = leaks_among(learned, evaluations, config.leaks)
    kept, found = list[Chunk](), Counter[str]()
    for chunk in chunks:
        if chunk.chunk_id in leaks:
            skipped.add(f"a chunk {IS_EVALUATED}", chunk.document)
        elif chunk.held_out or config.personal == "ignore":
            kept.append(chunk)
        elif config.personal == "redact":
            text = redacted(chunk.text, found)
            kept.append(dataclasses.replace(chunk, text=text, tokens=count(text)))
        elif find_personal(chunk.text):
            skipped.add(f"a chunk {HOLDS_PERSONAL}", chunk.document)
        else:
            kept.append(chunk)
    if all(chunk.held_out for chunk in kept):
        remedy = f"no chunk may be learned from ({counted(skipped.counts)}); name other texts"
        raise ConfigError("documents.path", cfg.path, remedy)
    work.shards([kept], list, Chunk)
    return {
        "documents": len(documents),
        "held_out": len(apart),
        "chunks": len(kept),
        "tokens": sum(chunk.tokens for chunk in kept if not chunk.held_out),
        "left_out": dict(skipped.counts),
        "first_left_out": skipped.first,
        "complaint": complaint(leaks, len(learned), "chunks of documents"),
        "redacted": dict(found),
        "file": Path(str(cfg.path)).name,
    }


CHUNKS = Stage("chunks", 8, cut_documents)
