"""Candidates: several answers of a policy to each prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from selfreward.engines.base import Completion, Decoding, SampleRequest
from selfreward.errors import ConfigError
from selfreward.records import Candidate, Prompt
from selfreward.stages.tools import Tools, cut
from selfreward.store import Artifact, Identity, Metrics, Stage, Work, derive_seed


@dataclass(frozen=True)
class EngineIdentity(Identity):
    """What of the engine changes its numbers."""

    kind: str
    merge_adapter: bool
    tokenizer: str | None = None  # of an outside server, by its content
    model: str | None = None  # what an outside server runs; None: the run's own model
    seeded: bool = True  # where it is not, the same settings need not make the same answers


@dataclass(frozen=True)
class CandidatesIdentity(Identity):
    """How answers are drawn."""

    n: int
    temperature: float
    top_p: float
    max_new_tokens: int
    max_prompt_tokens: int
    shard_size: int
    engine: EngineIdentity


def sample(config: CandidatesIdentity, parents: Mapping[str, Artifact], work: Work, tools: Tools) -> Metrics:
    """Answers of `parents["policy"]` to `parents["prompts"]`, token ids and log-probabilities kept.

    An answer's seed comes from the run's seed, the prompts' artifact, the prompt and the answer's number: the same for
    each policy that answers the same prompts, so that policies are compared under the same chance.

    Raises `ConfigError` where every prompt is too long.
    """
    prompts = parents["prompts"].read(Prompt)
    adapter = tools.adapter(parents["policy"])
    decoding = Decoding(config.temperature, config.top_p, config.max_new_tokens)
    engine = tools.engine_of("sampling")
    chat = engine.chat
    rendered = {prompt.prompt_id: chat.render(prompt.prompt) for prompt in prompts}
    fitting = [prompt for prompt in prompts if len(rendered[prompt.prompt_id]) <= config.max_prompt_tokens]

    if not fitting:
        remedy = f"all {len(prompts)} prompts are longer; raise it, or take shorter prompts"
        raise ConfigError("sampling.max_prompt_tokens", config.max_prompt_tokens, remedy)

    def compute(shard: Sequence[Prompt]) -> list[Candidate]:
        requests = [
            SampleRequest(
                rendered[prompt.prompt_id],
                [derive_seed(work.seed, parents["prompts"].id, prompt.prompt_id, k) for k in range(config.n)],
            )
            for prompt in shard
        ]
        sampled = engine.sample(requests, decoding, adapter, work.advance)
        return [
            _candidate(prompt, index, chat.decode(completion.token_ids), rendered[prompt.prompt_id], completion)
            for prompt, completions in zip(shard, sampled, strict=True)
            for index, completion in enumerate(completions)
        ]

    work.plan(len(fitting), "prompts")
    work.planned_memory = sum(tools.plan.sampling.values())
    candidates = work.shards(
        cut(fitting, config.shard_size),
        compute,
        Candidate,
        size=lambda shard: max(len(rendered[prompt.prompt_id]) for prompt in shard),
    )
    return _metrics(candidates) | {"prompts": len(fitting), "prompts_too_long": len(prompts) - len(fitting)}


def _candidate(prompt: Prompt, index: int, text: str, prompt_ids: list[int], completion: Completion) -> Candidate:
    return Candidate(
        prompt_id=prompt.prompt_id,
        prompt=prompt.prompt,
        index=index,
        text=text,
        prompt_ids=prompt_ids,
        token_ids=completion.token_ids,
        logprobs=completion.logprobs,
        finished=completion.finished,
        category=prompt.category,
        check=prompt.check,
    )


def _metrics(candidates: Sequence[Candidate]) -> Metrics:
    count = max(len(candidates), 1)
    return {
        "candidates": len(candidates),
        "mean_tokens": sum(len(c.token_ids) for c in candidates) / count,
        "lengths": [len(c.token_ids) for c in candidates],
        "finished_share": sum(c.finished for c in candidates) / count,
        "distinct_share": len({(c.prompt_id, c.text) for c in candidates}) / count,
    }


CANDIDATES = Stage("candidates", 4, sample)
