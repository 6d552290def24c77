"""The self-rewarding loop (arXiv 2401.10020), and nothing else: the one place that orders stages.

Policy 0 is the base model. Iteration t lets policy t-1 answer prompts and judge its answers, and trains policy t on
the pairs that come of it. A policy is evaluated on held-out prompts, with policy 0 as the judge and the opponent.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from selfreward.config import RunConfig
from selfreward.judges import JUDGES
from selfreward.model_files import ModelIdentity
from selfreward.stages.candidates import CANDIDATES, CandidatesIdentity, EngineIdentity
from selfreward.stages.evaluate import EVALUATE, TEXTS, EvaluationIdentity
from selfreward.stages.judgements import JUDGEMENTS, JudgementsIdentity
from selfreward.stages.pairs import PAIRS, PairsIdentity
from selfreward.stages.policy import SEED_POLICY, SeedPolicyIdentity
from selfreward.stages.prompts import PROMPTS, PromptsIdentity
from selfreward.stages.references import REFERENCES, ReferencesIdentity
from selfreward.stages.tools import Tools
from selfreward.stages.train import TRAIN, PolicyIdentity
from selfreward.store import Artifact, Store

Iteration = dict[str, Artifact]
"""The artifacts of one iteration, by the names that people browse them under."""


def loop(cfg: RunConfig, model: ModelIdentity, store: Store[Tools]) -> Iterator[Iteration]:
    """Make policy `cfg.iteration` exist.

    Yields the artifacts of each iteration as it is done; those of iteration 0 are the evaluation of policy 0.
    """
    stages = StageSettings(cfg)
    source = store.tools.pool.source
    base = policy = store.run(SEED_POLICY, SeedPolicyIdentity(model))
    held_out = store.run(PROMPTS, PromptsIdentity(source, iteration=None, per_iteration=None))

    def evaluation(policy: Artifact, baseline: Artifact | None) -> Iteration:
        answers = store.run(CANDIDATES, stages.held_out_candidates, {"prompts": held_out, "policy": policy}, cfg.seed)
        scores = store.run(JUDGEMENTS, stages.judgements, {"candidates": answers, "policy": base}, cfg.seed)
        parents = {"candidates": answers, "judgements": scores}
        if baseline is not None:
            parents |= {"baseline": baseline, "judge": base}
        report = store.run(EVALUATE, stages.evaluation, parents, cfg.seed)
        return {"held_out_candidates": answers, "held_out_judgements": scores, "evaluation": report}

    first = evaluation(policy, None)
    yield {"policy": policy, **first}
    for t in range(1, cfg.iteration + 1):
        prompts = store.run(PROMPTS, PromptsIdentity(source, t, cfg.prompts.per_iteration), seed=cfg.seed)
        candidates = store.run(CANDIDATES, stages.candidates, {"prompts": prompts, "policy": policy}, cfg.seed)
        judgements = store.run(JUDGEMENTS, stages.judgements, {"candidates": candidates, "policy": policy}, cfg.seed)
        pairs = store.run(PAIRS, stages.pairs, {"candidates": candidates, "judgements": judgements})
        made = {"prompts": prompts, "candidates": candidates, "judgements": judgements, "pairs": pairs}
        basis = {"pairs": pairs, "policy": policy}
        if cfg.train.reference_logprobs == "computed":
            reference = policy if cfg.train.reference == "previous" else base
            basis["references"] = made["references"] = store.run(
                REFERENCES, ReferencesIdentity(), {"pairs": pairs, "policy": reference}
            )
        policy = made["policy"] = store.run(TRAIN, stages.policy, basis, cfg.seed)
        yield made | evaluation(policy, first["held_out_candidates"])


@dataclass(frozen=True)
class StageSettings:
    """What of the configuration each stage's artifact depends on."""

    cfg: RunConfig

    @property
    def engine(self) -> EngineIdentity:
        e = self.cfg.engine
        return EngineIdentity(e.kind, e.merge_adapter, e.tokenizer, e.model if e.tokenizer else None, e.seeded)

    @property
    def candidates(self) -> CandidatesIdentity:
        s = self.cfg.sampling
        return CandidatesIdentity(
            s.n, s.temperature, s.top_p, s.max_new_tokens, s.max_prompt_tokens, s.shard_size, self.engine
        )

    @property
    def held_out_candidates(self) -> CandidatesIdentity:
        s, e = self.cfg.sampling, self.cfg.evaluation
        return CandidatesIdentity(
            1, e.temperature, e.top_p, e.max_new_tokens, s.max_prompt_tokens, s.shard_size, self.engine
        )

    @property
    def judgements(self) -> JudgementsIdentity:
        return JudgementsIdentity(self.cfg.judge, JUDGES[self.cfg.judge.kind].texts, self.engine)

    @property
    def pairs(self) -> PairsIdentity:
        return PairsIdentity(self.cfg.pairs)

    @property
    def policy(self) -> PolicyIdentity:
        return PolicyIdentity(self.cfg.train)

    @property
    def evaluation(self) -> EvaluationIdentity:
        e = self.cfg.evaluation
        return EvaluationIdentity(e.bootstrap_samples, e.confidence, TEXTS, self.engine)
