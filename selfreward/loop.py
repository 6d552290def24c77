"""The self-rewarding loop (arXiv 2401.10020), and nothing else: the one place that orders stages.

Policy 0 is the base model. Iteration t lets policy t-1 answer prompts and judge its answers, and trains policy t on
the pairs that come of it. A policy is evaluated on held-out prompts, with policy 0 as the judge and the opponent.
Where an outside engine is named to judge or to evaluate, it judges in the policy's place. Before a policy answers, the
engine is held against training.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from selfreward.config import RunConfig
from selfreward.model_files import ModelIdentity
from selfreward.roles import Role, engine_settings
from selfreward.stages.candidates import CANDIDATES, CandidatesIdentity, EngineIdentity
from selfreward.stages.evaluate import EVALUATE, TEXTS, EvaluationIdentity
from selfreward.stages.judgements import HELD_OUT_JUDGEMENTS, JUDGEMENTS, JudgementsIdentity, judgements_identity
from selfreward.stages.pairs import PAIRS, PairsIdentity
from selfreward.stages.parity import PARITY, ParityIdentity
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
    probe = store.run(PARITY, stages.parity, {"policy": base, "prompts": held_out})

    def evaluation(policy: Artifact, baseline: Artifact | None) -> Iteration:
        answers = store.run(CANDIDATES, stages.held_out_candidates, {"prompts": held_out, "policy": policy}, cfg.seed)
        asked = {"candidates": answers, **stages.judging("evaluation", policy=base)}
        scores = store.run(HELD_OUT_JUDGEMENTS, stages.judgements("evaluation"), asked, cfg.seed)
        parents = {"candidates": answers, "judgements": scores}
        if baseline is not None:
            parents |= {"baseline": baseline, **stages.judging("evaluation", judge=base)}
        report = store.run(EVALUATE, stages.evaluation, parents, cfg.seed)
        return {"held_out_candidates": answers, "held_out_judgements": scores, "evaluation": report}

    first = evaluation(policy, None)
    yield {"policy": policy, "parity": probe, **first}
    for t in range(1, cfg.iteration + 1):
        prompts = store.run(PROMPTS, PromptsIdentity(source, t, cfg.prompts.per_iteration), seed=cfg.seed)
        candidates = store.run(CANDIDATES, stages.candidates, {"prompts": prompts, "policy": policy}, cfg.seed)
        asked = {"candidates": candidates, **stages.judging("judge", policy=policy)}
        judgements = store.run(JUDGEMENTS, stages.judgements("judge"), asked, cfg.seed)
        pairs = store.run(PAIRS, stages.pairs, {"candidates": candidates, "judgements": judgements})
        made = {"prompts": prompts, "candidates": candidates, "judgements": judgements, "pairs": pairs}
        basis = {"pairs": pairs, "policy": policy}
        if cfg.train.reference_logprobs == "computed":
            reference = policy if cfg.train.reference == "previous" else base
            basis["references"] = made["references"] = store.run(
                REFERENCES, ReferencesIdentity(), {"pairs": pairs, "policy": reference}
            )
        policy = made["policy"] = store.run(TRAIN, stages.policy, basis, cfg.seed)
        made["parity"] = store.run(PARITY, stages.parity, {"policy": policy, "probe": probe})
        yield made | evaluation(policy, first["held_out_candidates"])


@dataclass(frozen=True)
class StageSettings:
    """What of the configuration each stage's artifact depends on."""

    cfg: RunConfig

    def engine(self, role: Role) -> EngineIdentity:
        settings = engine_settings(self.cfg, role)
        model = settings.model if settings.is_outside else None
        return EngineIdentity(settings.kind, settings.merge_adapter, settings.tokenizer, model, settings.seeded)

    def judging(self, role: Role, **policies: Artifact) -> dict[str, Artifact]:
        """The policy that judges, as a parent; none where the engine of the role has a model of its own."""
        return {} if engine_settings(self.cfg, role).is_outside else policies

    @property
    def parity(self) -> ParityIdentity:
        return ParityIdentity(self.engine("sampling"), self.cfg.engine.parity_limit)

    @property
    def candidates(self) -> CandidatesIdentity:
        s = self.cfg.sampling
        return CandidatesIdentity(
            s.n, s.temperature, s.top_p, s.max_new_tokens, s.max_prompt_tokens, s.shard_size, self.engine("sampling")
        )

    @property
    def held_out_candidates(self) -> CandidatesIdentity:
        s, e = self.cfg.sampling, self.cfg.evaluation
        shard_size = 4 * s.shard_size  # one answer a prompt: a small batch is a slow one
        return CandidatesIdentity(
            1, e.temperature, e.top_p, e.max_new_tokens, s.max_prompt_tokens, shard_size, self.engine("sampling")
        )

    def judgements(self, role: Role) -> JudgementsIdentity:
        return judgements_identity(self.cfg.judge, self.engine(role))

    @property
    def pairs(self) -> PairsIdentity:
        return PairsIdentity(self.cfg.pairs)

    @property
    def policy(self) -> PolicyIdentity:
        return PolicyIdentity(self.cfg.train)

    @property
    def evaluation(self) -> EvaluationIdentity:
        e = self.cfg.evaluation
        return EvaluationIdentity(e.bootstrap_samples, e.confidence, TEXTS, self.engine("evaluation"))
