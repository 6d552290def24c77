"""The self-rewarding loop (arXiv 2401.10020), and nothing else: the one place that orders stages.

Policy 0 is the base model, or what becomes of it on documents and on what people wrote. Iteration t lets policy t-1
answer prompts and judge its answers, and trains policy t on the pairs that come of it. A policy is evaluated on
held-out prompts, with policy 0 as the judge and the opponent, or with a judge of its own. Where an outside engine is
named to judge or to evaluate, it judges in the policy's place. Before a policy answers, the engine is held against
training, and so is any further one that runs the same model.

Prompts come from a source, or are written by a policy that is shown some of the source's. None is asked that the gate
does not let through.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from selfreward.config import RunConfig
from selfreward.errors import GenerationError, counted
from selfreward.model.model_files import ModelIdentity
from selfreward.roles import engine_name, engine_settings
from selfreward.stages.agreement import AGREEMENT
from selfreward.stages.base_policy import BASE_POLICY, BasePolicyIdentity
from selfreward.stages.candidates import CANDIDATES
from selfreward.stages.chunks import CHUNKS
from selfreward.stages.document_prompts import DOCUMENT_PROMPTS
from selfreward.stages.embeddings import EMBEDDINGS
from selfreward.stages.evaluate import EVALUATE
from selfreward.stages.gate import GATE, check_passed
from selfreward.stages.judgements import HELD_OUT_JUDGEMENTS, JUDGEMENTS
from selfreward.stages.leaks import LEAKS, check_clean
from selfreward.stages.new_prompts import EVALUATION, NEW_PROMPTS
from selfreward.stages.pairs import PAIRS
from selfreward.stages.parity import FURTHER_PARITY, PARITY
from selfreward.stages.perplexity import IMITATION, PERPLEXITY
from selfreward.stages.pretrain import PRETRAIN
from selfreward.stages.prompts import PROMPTS, PromptsIdentity
from selfreward.stages.proposals import PROPOSALS
from selfreward.stages.references import REFERENCES, ReferencesIdentity
from selfreward.stages.rephrasings import REPHRASINGS
from selfreward.stages.seeds import DEMONSTRATIONS, RATINGS
from selfreward.stages.settings import StageSettings
from selfreward.stages.tools import Tools
from selfreward.stages.train import TRAIN
from selfreward.stages.tune import INDEPENDENT_JUDGE, TUNE
from selfreward.store import Artifact, Store

Iteration = dict[str, Artifact]
"""The artifacts of one iteration, by the names that people browse them under."""


def loop(cfg: RunConfig, identity: ModelIdentity, store: Store[Tools]) -> Iterator[Iteration]:
    """Make policy `cfg.iteration` exist.

    Yields the artifacts of each iteration as it is done; those of iteration 0 are the evaluation of policy 0, and what
    it was tuned on.
    """
    settings = StageSettings(cfg)
    base = store.run(BASE_POLICY, BasePolicyIdentity(identity))
    held_out = store.run(PROMPTS, PromptsIdentity(store.tools.pool.source, iteration=None, per_iteration=None))
    people = _people(settings, store)
    evaluated = {"held_out": held_out, **people}
    measured = settings.parity("sampling")
    probe = store.run(PARITY, measured, {"policy": base, "prompts": held_out})
    further = _further_parity(settings, store, {"policy": base, "probe": probe})
    leaks = _leaks(settings, store, evaluated)
    independent = _kept_for_a_judge(settings, store, evaluated)
    seeds = _seeds(settings, store, evaluated, independent)
    documents = _documents(settings, store, base, evaluated)
    if independent:
        learned = {"policy": base, "ratings": independent["independent_judge_ratings"]}
        independent["independent_judge"] = store.run(INDEPENDENT_JUDGE, settings.independent_judge, learned, cfg.seed)
    policy_0 = documents.get("pretrained", base)
    if seeds:
        policy_0 = store.run(TUNE, settings.tuning, {"policy": policy_0, **seeds}, cfg.seed)
    parity = probe if policy_0 is base else store.run(PARITY, measured, {"policy": policy_0, "probe": probe})
    evaluation = _Evaluation(settings, store, held_out, people, independent.get("independent_judge", policy_0))
    before: Iteration = {} if policy_0 is base else {"base_parity": probe}
    if seeds:
        before |= _named("base", evaluation.agreement(base) | evaluation.imitation(base))
    if independent:
        before |= _named("independent_judge", evaluation.agreement(independent["independent_judge"]))
    first = evaluation.of(policy_0)
    made = {**people, **leaks, **independent, **documents, **seeds, **before, **further}
    yield made | {"policy": policy_0, "parity": parity} | first
    policy = policy_0
    written: list[Artifact] = []
    for t in range(1, cfg.iteration + 1):
        writer = policy if cfg.generation.writer == "current" else policy_0
        made = _prompts(settings, store, t, writer, evaluated, documents, written)
        candidates = store.run(
            CANDIDATES, settings.candidates, {"prompts": made["prompts"], "policy": policy}, cfg.seed
        )
        asked = {"candidates": candidates, **settings.judging("judge", policy=policy)}
        judgements = store.run(JUDGEMENTS, settings.judgements("judge"), asked, cfg.seed)
        pairs = store.run(PAIRS, settings.pairs, {"candidates": candidates, "judgements": judgements})
        made |= {"candidates": candidates, "judgements": judgements, "pairs": pairs}
        reference = policy if cfg.train.reference == "previous" else policy_0
        basis = {"pairs": pairs, "policy": policy, "reference": reference}
        if cfg.reference_logprobs(sampled=reference is policy) == "computed":
            basis["references"] = made["references"] = store.run(
                REFERENCES, ReferencesIdentity(), {"pairs": pairs, "policy": reference}
            )
        policy = made["policy"] = store.run(TRAIN, settings.policy, basis, cfg.seed)
        made["parity"] = store.run(PARITY, measured, {"policy": policy, "probe": probe})
        yield made | evaluation.of(policy, baseline=first["held_out_candidates"])


def _named(prefix: str, artifacts: Iteration) -> Iteration:
    return {f"{prefix}_{name}": artifact for name, artifact in artifacts.items()}


@dataclass(frozen=True)
class _Evaluation:
    """What every policy is evaluated by: held-out prompts, the policy that judges the answers to them, and what people
    wrote."""

    settings: StageSettings
    store: Store[Tools]
    held_out: Artifact
    people: Mapping[str, Artifact]
    judge: Artifact

    def of(self, policy: Artifact, baseline: Artifact | None = None) -> Iteration:
        """Of a policy: its answers, their scores and their duels with the `baseline`'s; of the first one none."""
        settings, seed = self.settings, self.settings.cfg.seed
        asked = {"prompts": self.held_out, "policy": policy}
        answers = self.store.run(CANDIDATES, settings.held_out_candidates, asked, seed)
        judged = {"candidates": answers, **settings.judging("evaluation", policy=self.judge)}
        scores = self.store.run(HELD_OUT_JUDGEMENTS, settings.judgements("evaluation"), judged, seed)
        parents = {"candidates": answers, "judgements": scores}
        if baseline is not None:
            parents |= {"baseline": baseline, **settings.judging("evaluation", judge=self.judge)}
        report = self.store.run(EVALUATE, settings.evaluation, parents, seed)
        made = {"held_out_candidates": answers, "held_out_judgements": scores, "evaluation": report}
        return made | self.agreement(policy, first=baseline is None) | self.imitation(policy)

    def agreement(self, policy: Artifact, *, first: bool = False) -> Iteration:
        """How the policy's judge agrees with people: once, with the `first` policy, where all have one judge."""
        if "people" not in self.people or not (first or self.settings.policies_judge):
            return {}
        seed = self.settings.cfg.seed if self.settings.cfg.judge.draws else None  # else it is the same for all seeds
        judged = {"ratings": self.people["people"], **self.settings.judging("judge", policy=policy)}
        return {"agreement": self.store.run(AGREEMENT, self.settings.agreement, judged, seed)}

    def imitation(self, policy: Artifact) -> Iteration:
        """How likely the policy finds what people answered."""
        if "demonstrations_held_out" not in self.people:
            return {}
        parents = {"demonstrations": self.people["demonstrations_held_out"], "policy": policy}
        return {"imitation": self.store.run(IMITATION, self.settings.perplexity, parents)}


def _further_parity(settings: StageSettings, store: Store[Tools], parents: Mapping[str, Artifact]) -> Iteration:
    """Engines of their own for judging and evaluating, held against training where they run the run's model: one that
    runs another, and whose tokenizer is not named, would score what it can't read."""
    found: Iteration = {}
    for role, stage in FURTHER_PARITY.items():
        if engine_name(settings.cfg, role) is not None and not engine_settings(settings.cfg, role).is_outside:
            found[f"{role}_parity"] = store.run(stage, settings.parity(role), parents)
    return found


def _people(settings: StageSettings, store: Store[Tools]) -> Iteration:
    """What people wrote that nobody learns from: answers they rated, to hold the judge against, and answers they gave,
    to see how likely a policy finds them."""
    kinds = {"people": RATINGS, "demonstrations_held_out": DEMONSTRATIONS}
    return {name: store.run(kinds[name], identity) for name, identity in settings.measured_by().items()}


def _leaks(settings: StageSettings, store: Store[Tools], evaluated: Mapping[str, Artifact]) -> Iteration:
    """What of all prompts that may be asked is evaluated on, where that stops the run: now, and not in the iteration
    that would ask it. What is drawn or written can't be taken out of a file: the gate leaves it out."""
    cfg = settings.cfg
    if not cfg.iteration or cfg.gate.contamination != "raise" or cfg.generation.kind != "none" or settings.templated:
        return {}
    found = store.run(LEAKS, settings.leaks, {"prompts": _all_to_ask(store), **evaluated})
    check_clean(cfg.gate, found)
    return {"leaks": found}


def _all_to_ask(store: Store[Tools]) -> Artifact:
    """The source's prompts, but for those held out."""
    return store.run(PROMPTS, PromptsIdentity(store.tools.pool.source, iteration=0, per_iteration=None))


def _kept_for_a_judge(settings: StageSettings, store: Store[Tools], evaluated: Mapping[str, Artifact]) -> Iteration:
    """Ratings from which no policy learns, for a judge that is there for evaluation alone, and their prompts as people
    wrote them, to be held against what policies learn; empty where policy 0 judges."""
    cfg = settings.cfg
    if cfg.evaluation.judge != "independent":
        return {}
    kept = partial(settings.seeds, "tuning.ratings", cfg.tuning.ratings, held_out=True)
    ratings = store.run(RATINGS, kept(), evaluated)
    check_clean(cfg.gate, ratings)
    return {"independent_judge_prompts": store.run(RATINGS, kept(measures=True)), "independent_judge_ratings": ratings}


def _documents(
    settings: StageSettings, store: Store[Tools], model: Artifact, evaluated: Mapping[str, Artifact]
) -> Iteration:
    """Documents, what the model makes of them where that is used, what it becomes by learning from both, and how either
    is surprised by those held out; empty where there are none."""
    cfg = settings.cfg
    if not cfg.documents.path:
        return {}
    chunks = store.run(CHUNKS, settings.chunks, {"policy": model, **evaluated})
    check_clean(cfg.gate, chunks)
    read = {"policy": model, "chunks": chunks}
    made: Iteration = {"chunks": chunks}
    if cfg.rephrases:
        made["rephrasings"] = store.run(REPHRASINGS, settings.rephrasings, read, cfg.seed)
    made["base_perplexity"] = store.run(PERPLEXITY, settings.perplexity, read)
    if cfg.documents.most_tokens == 0:
        return made
    learned = {**read, "rephrasings": made["rephrasings"]} if cfg.documents.rephrased_share else read
    policy = store.run(PRETRAIN, settings.pretraining, learned, cfg.seed)
    after = store.run(PERPLEXITY, settings.perplexity, {"chunks": chunks, "policy": policy})
    return {**made, "pretrained": policy, "perplexity": after}


def _seeds(
    settings: StageSettings, store: Store[Tools], evaluated: Mapping[str, Artifact], independent: Mapping[str, Artifact]
) -> Iteration:
    """What policy 0 is tuned on, without what it is evaluated on or an independent judge learned; empty where there is
    nothing."""
    kinds = {"demonstrations": DEMONSTRATIONS, "ratings": RATINGS}
    apart = dict(evaluated)
    if "independent_judge_prompts" in independent:
        apart["independent_judge_prompts"] = independent["independent_judge_prompts"]
    seeds = {
        name: store.run(kinds[name], settings.seeds(f"tuning.{name}", file), apart)
        for name, file in settings.cfg.tuning.learned.items()
    }
    check_clean(settings.cfg.gate, *seeds.values())
    return seeds


def _prompts(
    settings: StageSettings,
    store: Store[Tools],
    iteration: int,
    writer: Artifact,
    evaluated: Mapping[str, Artifact],
    documents: Mapping[str, Artifact],
    written: list[Artifact],
) -> Iteration:
    """The `prompts` of an iteration, past the gate, and what they come from: the source, the documents, or the
    `writer`; `written` are those of earlier iterations, and these are added."""
    cfg = settings.cfg
    if cfg.generation.kind == "none":
        identity = PromptsIdentity(store.tools.pool.source, iteration, cfg.prompts.per_iteration)
        made = {"source": store.run(PROMPTS, identity, seed=cfg.seed)}
    elif cfg.generation.kind == "documents":
        asked_about = {name: documents[name] for name in ("chunks", "rephrasings")}
        made = {"source": store.run(DOCUMENT_PROMPTS, settings.document_prompts(iteration), asked_about, cfg.seed)}
    else:
        made = _written(settings, store, iteration, writer, evaluated, written)
        written.append(made["source"])
    prompts = made["prompts"] = store.run(GATE, settings.gate, {"prompts": made["source"], **evaluated})
    check_passed(prompts)
    if cfg.gate.embedding_model:
        made["embeddings"] = store.run(EMBEDDINGS, settings.embeddings, {"prompts": prompts})
    return made


def _written(
    settings: StageSettings,
    store: Store[Tools],
    iteration: int,
    writer: Artifact,
    evaluated: Mapping[str, Artifact],
    earlier: list[Artifact],
) -> Iteration:
    """New prompts as `source`, and the rounds that made them, until the iteration has its number past the gate. None
    holds what is evaluated, and none comes twice.

    Raises `GenerationError` where the rounds don't suffice.
    """
    cfg = settings.cfg
    known = {"seeds": _all_to_ask(store), **{f"iteration_{t}": artifact for t, artifact in enumerate(earlier, start=1)}}
    evaluations = {f"{EVALUATION}{name}": artifact for name, artifact in evaluated.items()}
    rounds: Iteration = {}
    wanted = cfg.prompts.per_iteration
    for number in range(cfg.generation.rounds):
        asked = {**known, "policy": writer}
        proposals = store.run(PROPOSALS, settings.proposals(iteration, number), asked, cfg.seed)
        kept = store.run(NEW_PROMPTS, settings.new_prompts(wanted), {**known, "proposals": proposals, **evaluations})
        rounds[f"proposals_{number}"] = proposals
        if kept.metrics["prompts"] == wanted:
            through = store.run(GATE, settings.gate, {"prompts": kept, **evaluated}).metrics["prompts"]
            if through == cfg.prompts.per_iteration:
                return {**rounds, "source": kept}
            wanted += cfg.prompts.per_iteration - through
        known["kept"] = rounds[f"kept_{number}"] = kept
    reasons = dict(known["kept"].metrics["left_out"])
    if at_gate := wanted - cfg.prompts.per_iteration:
        reasons["does not pass the gate"] = at_gate
    raise GenerationError(
        f"generation.rounds={cfg.generation.rounds}: {known['kept'].metrics['prompts'] - at_gate} of "
        f"{cfg.prompts.per_iteration} new prompts were kept ({counted(reasons)}); "
        "raise it, or loosen the limits of generation"
    )
