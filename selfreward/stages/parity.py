"""Parity: the engine's log-probabilities held against training's, before the engine is asked to be a policy.

An engine that runs other weights, forgets the adapter or rounds otherwise gives answers that are not the policy's, and
nothing else in the loop would show it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain

import numpy as np

from selfreward.engines.base import Decoding, SampleRequest
from selfreward.errors import ParityError
from selfreward.model.adapters import Adapter
from selfreward.records import Candidate, Prompt
from selfreward.roles import Role, engine_name, settings_key
from selfreward.stages.candidates import EngineIdentity
from selfreward.stages.tools import Tools
from selfreward.store import Artifact, Identity, Metrics, Stage, Work, derive_seed

_PROMPTS = 4
_DECODING = Decoding(temperature=1.0, top_p=1.0, max_new_tokens=24)

Twice = tuple[np.ndarray, np.ndarray]
"""Log-probabilities (T) in nats of the same tokens, scored in batches of two sizes: they differ by rounding."""


@dataclass(frozen=True)
class ParityIdentity(Identity):
    """Which engine is held against training, and how far it may be off, in nats a token; None: as rounding allows.
    `server` is the address of a server, and what it calls its model: two may run two models."""

    engine: EngineIdentity
    limit: float | None
    server: tuple[str | None, str | None] | None = None


def parity(config: ParityIdentity, parents: Mapping[str, Artifact], work: Work, tools: Tools, *, role: Role) -> Metrics:
    """How far a role's engine is from training under `parents["policy"]`, on two short answers each to a few prompts.

    The answers are policy 0's: sampled for its own parity, from the shortest of `parents["prompts"]`, and taken from
    that parity, `parents["probe"]`, for every later policy. What training makes of them is kept with them. The model in
    this process is done before the engine is asked: they may have to take turns on the device.

    Raises `ParityError` where the engine is further off than rounding explains, or does not apply the adapter as
    training does.
    """
    probe = parents["probe"].read(Candidate) if "probe" in parents else None
    answers = probe or _sample(parents["prompts"].read(Prompt), tools)
    adapter = tools.adapter(parents["policy"])
    moves = probe is not None and adapter is not None
    work.plan(len(answers) / 2 * (2 if moves else 1), "prompts")
    scored, training = _score(answers, adapter, work, tools)
    without = _score(answers, None, work, tools)[1] if moves else None
    rounding = float(np.abs(training[0] - training[1]).mean())
    prompts, completions = [answer.prompt_ids for answer in answers], [answer.token_ids for answer in answers]
    asked = tools.engine_of(role)
    found = work.group.broadcast(  # one process asks: vLLM on a CPU dies of two such requests at once
        lambda: asked.logprobs(prompts, completions, adapter, lambda _, tokens: work.advance(0, tokens))
    )
    engine = _flat(found)
    share = adapter_share(engine, training, without) if without else None
    off = np.abs(engine - training[0])
    most = allowed(config.limit, tools.cfg.model.dtype, rounding)
    key = settings_key(engine_name(tools.cfg, role))
    _check(key, config.engine, parents["policy"], float(off.mean()), most, share)
    work.shards([scored], list, Candidate)
    return {
        "answers": len(answers),
        "tokens": len(off),
        "difference": float(off.mean()),
        "largest_difference": float(off.max()),
        "rounding": rounding,
        "adapter_share": share.share if share and share.is_known else None,
    }


@dataclass(frozen=True)
class Share:
    """How much of an adapter an engine applies: 1 is all of it, 0 nothing; and the standard error of that."""

    share: float
    error: float

    @property
    def is_whole(self) -> bool:
        """Whether it may be all: nearer to 1 than to 0 or 2, as far as four standard errors can tell."""
        return abs(self.share - 1) - 4 * self.error <= 0.5

    @property
    def is_known(self) -> bool:
        """Whether four standard errors can tell all from nothing, or rounding hides it."""
        return 4 * self.error <= 0.5


def adapter_share(engine: np.ndarray, training: Twice, without: Twice) -> Share | None:
    """Which share of the adapter's effect on the log-probabilities (T) in training the engine's (T) show too.

    An estimate by instrumental variables: the effect as the second batching shows it is the instrument for the first.
    A short training moves log-probabilities by less, on average, than bfloat16 rounds them, and least squares would
    take that rounding for effect that the engine lacks. The standard error is White's (1980), for some tokens round far
    more than others. None where the two effects do not correlate: then nothing can be told.
    """
    step_T, again_T = training[0] - without[0], training[1] - without[1]
    taken_T = engine - without[0]
    length = float(step_T @ again_T)
    if length <= 0:
        return None
    share = float(taken_T @ again_T) / length
    return Share(share, float(np.linalg.norm((taken_T - share * step_T) * again_T)) / length)


def allowed(limit: float | None, dtype: str, rounding: float) -> float:
    """How far an engine may be off, in nats a token: the limit that was asked for, or as far as rounding explains."""
    import torch  # this and trl, which the next line imports, a finished run does without

    from selfreward.training.reference import tolerance

    return limit or tolerance(getattr(torch, dtype), rounding)


def _check(key: str, engine: EngineIdentity, policy: Artifact, off: float, most: float, share: Share | None) -> None:
    where = f"{key}.kind={engine.kind}"
    mend = "mend that"
    if key != "engine" and engine.kind == "server":
        mend = f"name the tokenizer of a model of its own as {key}.tokenizer"
    elif engine.merge_adapter:
        mend = f"set {key}.merge_adapter=false"
    if share and not share.is_whole:
        raise ParityError(
            f"{where}: it applies {share.share:.2f} of the adapter of {policy.full_id} where training applies 1: it "
            "would answer as another policy; "
            + (f"set {key}.merge_adapter=false" if engine.merge_adapter else "look at how it loads adapters")
        )
    if not off <= most:
        raise ParityError(
            f"{where}: under {policy.full_id} its log-probabilities are {off:.3g} nats a token off those that "
            f"training computes, more than {most:.3g}: it runs another model, or rounds otherwise; {mend}, or "
            f"raise {key}.parity_limit"
        )


def _sample(prompts: Sequence[Prompt], tools: Tools) -> list[Candidate]:
    """Two answers of policy 0 to each of the shortest prompts, by the model in this process."""
    engine = tools.local_engine
    rendered = {prompt.prompt_id: engine.chat.render(prompt.prompt) for prompt in prompts}
    asked = sorted(prompts, key=lambda prompt: len(rendered[prompt.prompt_id]))[:_PROMPTS]
    requests = [
        SampleRequest(rendered[p.prompt_id], [derive_seed("parity", p.prompt_id, k) for k in range(2)]) for p in asked
    ]
    return [
        Candidate(
            prompt_id=prompt.prompt_id,
            prompt=prompt.prompt,
            index=index,
            text=engine.chat.decode(made.token_ids),
            prompt_ids=rendered[prompt.prompt_id],
            token_ids=made.token_ids,
            logprobs=made.logprobs,
            finished=made.finished,
        )
        for prompt, completions in zip(asked, engine.sample(requests, _DECODING, None, lambda *_: None), strict=True)
        for index, made in enumerate(completions)
    ]


def _score(
    answers: Sequence[Candidate], adapter: Adapter | None, work: Work, tools: Tools
) -> tuple[list[Candidate], Twice]:
    """The answers with the log-probabilities that training's own forward pass gives them, and these once more beside
    what they are when each two are scored by themselves: they differ by rounding alone.

    That is the more, the less likely the answers are: they are policy 0's, and policies move away from them.
    """
    from selfreward.training.reference import compute_logprobs  # imports torch and trl

    twos = list(zip(answers[::2], answers[1::2], strict=True))
    rows = [(one.prompt_ids, one.token_ids, other.token_ids) for one, other in twos]
    with tools.models.policy(adapter) as model:
        score = partial(compute_logprobs, model, tools.models.chat.tokenizer, rows, tools.speed)
        together = list(chain(*score(tools.plan.scoring_tokens, work.advance)))
        apart = list(chain(*score(1, lambda _, tokens: work.advance(0, tokens))))
    made = [replace(answer, logprobs=logprobs) for answer, logprobs in zip(answers, together, strict=True)]
    return made, (_flat(together), _flat(apart))


def _flat(rows: Sequence[Sequence[float]]) -> np.ndarray:
    return np.fromiter(chain.from_iterable(rows), dtype=np.float64)


_VERSION = 4
PARITY = Stage("parity", _VERSION, partial(parity, role="sampling"))
FURTHER_PARITY: dict[Role, Stage[ParityIdentity, Tools]] = {
    "judge": Stage("parity", _VERSION, partial(parity, role="judge")),
    "evaluation": Stage("parity", _VERSION, partial(parity, role="evaluation")),
}
"""Of engines beside the one that samples."""
