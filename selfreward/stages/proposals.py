"""Proposals: what a policy writes when it is asked for new prompts, kept and left out alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from selfreward.config import GenerationConfig
from selfreward.engines.base import Decoding, SampleRequest
from selfreward.errors import ConfigError
from selfreward.generation import WAYS
from selfreward.generation.base import Ask
from selfreward.generation.filters import count_words
from selfreward.records import Prompt, Proposal
from selfreward.stages.candidates import EngineIdentity
from selfreward.stages.tools import Tools, cut
from selfreward.store import Artifact, Identity, Metrics, Stage, Work, derive_seed

SETTINGS = (
    "kind",
    "proposals",
    "generated_share",
    "temperature",
    "top_p",
    "max_new_tokens",
    "most_words",
)
"""What of the configuration proposals depend on, whichever way they are made."""

_SHARD = 64


@dataclass(frozen=True)
class ProposalsIdentity(Identity):
    """How proposals are asked for, and the round of an iteration: the same twice would be the same proposals."""

    generation: Mapping[str, Any]
    iteration: int
    round: int
    texts: tuple[str, ...]
    engine: EngineIdentity


def propose(config: ProposalsIdentity, parents: Mapping[str, Artifact], work: Work, tools: Tools) -> Metrics:
    """Proposals of `parents["policy"]`, shown prompts of `parents["seeds"]` and of all other parents, none of them
    longer than a new one may be.

    Raises `ConfigError` where there are none to show.
    """
    cfg = GenerationConfig(**config.generation)
    way = WAYS[cfg.kind]
    seeds = [prompt.prompt for prompt in parents["seeds"].read(Prompt)]
    if not seeds:
        raise ConfigError("generation.kind", cfg.kind, "the source has no prompts to show; choose another for prompts")
    shortest = min(map(count_words, seeds))
    seeds = [text for text in seeds if count_words(text) <= cfg.most_words]
    if not seeds:
        remedy = f"the source has no prompt as short as that to show; raise it to {shortest} or more"
        raise ConfigError("generation.most_words", cfg.most_words, remedy)
    others = [parent for name, parent in parents.items() if name not in ("seeds", "policy")]
    made = [prompt.prompt for parent in others for prompt in parent.read(Prompt)]
    engine = tools.engine_of("sampling")
    chat, adapter = engine.chat, tools.adapter(parents["policy"])
    decoding = Decoding(cfg.temperature, cfg.top_p, cfg.max_new_tokens)

    def seed(number: int, of: str) -> int:
        return derive_seed(work.seed, "proposals", config.iteration, config.round, number, of)

    def compute(shard: Sequence[tuple[int, Ask]]) -> list[Proposal]:
        requests = [
            SampleRequest(chat.render_opened(ask.message, ask.opening), [seed(number, "answer")])
            for number, ask in shard
        ]
        sampled = engine.sample(requests, decoding, adapter, work.advance)
        return [
            _proposal(way.read(chat.decode(made.token_ids)), chat.decode(made.token_ids), ask, finished=made.finished)
            for (_, ask), (made,) in zip(shard, sampled, strict=True)
        ]

    asks = [(number, way.ask(cfg, seeds, made, Random(seed(number, "ask")))) for number in range(cfg.proposals)]
    work.plan(len(asks), "proposals")
    work.planned_memory = sum(tools.plan.sampling.values())
    proposals = work.shards(
        cut(asks, _SHARD), compute, Proposal, size=lambda shard: max(len(a.message) for _, a in shard)
    )
    return {"proposals": len(proposals), "finished_share": sum(p.finished for p in proposals) / len(proposals)}


def _proposal(text: str, reply: str, ask: Ask, *, finished: bool) -> Proposal:
    """A prompt is whole where the policy ended it, or went on to something else."""
    return Proposal(text, ask.shown, finished or len(reply.strip()) > len(text) + 2)


PROPOSALS = Stage("proposals", 3, propose)
