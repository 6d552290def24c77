"""What of a run's configuration each stage's artifact depends on."""

from __future__ import annotations

from dataclasses import dataclass

from selfreward.config import TEMPLATED, RunConfig, SeedFileConfig
from selfreward.documents.rephrase import STYLES, styles
from selfreward.generation import WAYS
from selfreward.judges import pairwise, rubric
from selfreward.judges.lessons import REASONS
from selfreward.model.model_files import identify_tokenizer, locate_tokenizer
from selfreward.roles import Role, engine_name, engine_settings, settings_key
from selfreward.stages import new_prompts, proposals, rephrasings, train
from selfreward.stages.agreement import AgreementIdentity
from selfreward.stages.candidates import CandidatesIdentity, EngineIdentity
from selfreward.stages.chunks import ChunksIdentity, chunks_identity
from selfreward.stages.document_prompts import DocumentPromptsIdentity
from selfreward.stages.embeddings import EmbeddingsIdentity, embeddings_identity
from selfreward.stages.evaluate import EvaluationIdentity
from selfreward.stages.gate import GateIdentity, gate_identity
from selfreward.stages.judgements import JudgementsIdentity, judgements_identity
from selfreward.stages.leaks import NOT_LOOKED_FOR, LeaksIdentity, leaks_identity
from selfreward.stages.new_prompts import NewPromptsIdentity
from selfreward.stages.pairs import PairsIdentity
from selfreward.stages.parity import ParityIdentity
from selfreward.stages.perplexity import PerplexityIdentity
from selfreward.stages.pretrain import PretrainIdentity
from selfreward.stages.proposals import ProposalsIdentity
from selfreward.stages.rephrasings import RephrasingsIdentity
from selfreward.stages.seeds import SeedsIdentity, seeds_identity
from selfreward.stages.train import PolicyIdentity
from selfreward.stages.tune import OPTIMISER, TuneIdentity
from selfreward.store import Artifact
from selfreward.store.identity import only


@dataclass(frozen=True)
class StageSettings:
    """What of the configuration each stage's artifact depends on."""

    cfg: RunConfig

    def engine(self, role: Role) -> EngineIdentity:
        settings = engine_settings(self.cfg, role)
        model = settings.model if settings.is_outside else None
        tokenizer = None
        if settings.tokenizer:
            key = f"{settings_key(engine_name(self.cfg, role))}.tokenizer"
            tokenizer = identify_tokenizer(locate_tokenizer(key, settings.tokenizer))
        return EngineIdentity(settings.kind, settings.merge_adapter, tokenizer, model, settings.seeded)

    def judging(self, role: Role, **policies: Artifact) -> dict[str, Artifact]:
        """The policy that judges, as a parent; none where the engine of the role has a model of its own."""
        return {} if engine_settings(self.cfg, role).is_outside else policies

    @property
    def policies_judge(self) -> bool:
        """Whether what judges is the policy, so that each judges in its own way."""
        return self.cfg.judge.asks_a_model and not engine_settings(self.cfg, "judge").is_outside

    def parity(self, role: Role) -> ParityIdentity:
        settings = engine_settings(self.cfg, role)
        server = (settings.base_url, settings.model) if role != "sampling" or settings.kind == "server" else None
        return ParityIdentity(self.engine(role), settings.parity_limit, server)

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

    @property
    def leaks(self) -> LeaksIdentity:
        return leaks_identity(self.cfg.gate)

    def seeds(self, key: str, file: SeedFileConfig, *, held_out: bool = False, measures: bool = False) -> SeedsIdentity:
        """Of what is learned from; what only `measures` stays as it is."""
        leaks = NOT_LOOKED_FOR if measures else self.leaks
        personal = "ignore" if measures else self.cfg.gate.personal
        return seeds_identity(key, file, self.cfg.data, leaks, personal, held_out=held_out)

    def measured_by(self) -> dict[str, SeedsIdentity]:
        """What people wrote that nobody learns from, by the name of the artifact."""
        cfg, found = self.cfg, dict[str, SeedsIdentity]()
        if cfg.rated:
            apart = cfg.rated != "people"
            file = cfg.tuning.ratings if apart else cfg.people
            found["people"] = self.seeds(cfg.rated, file, held_out=apart, measures=True)
        if cfg.tuning.demonstrations.path and cfg.tuning.demonstrations.held_out:
            found["demonstrations_held_out"] = self.seeds(
                "tuning.demonstrations", cfg.tuning.demonstrations, held_out=True, measures=True
            )
        return found

    @property
    def chunks(self) -> ChunksIdentity:
        return chunks_identity(self.cfg.documents, self.cfg.data.on_error, self.leaks, self.cfg.gate.personal)

    @property
    def rephrasings(self) -> RephrasingsIdentity:
        texts = tuple(STYLES[style] for style in styles(self.cfg.documents.styles))
        return RephrasingsIdentity(only(self.cfg.documents, rephrasings.SETTINGS), texts, self.engine("sampling"))

    @property
    def pretraining(self) -> PretrainIdentity:
        documents = self.cfg.documents
        tuning = only(self.cfg.tuning, OPTIMISER)
        return PretrainIdentity(documents.rephrased_share, documents.most_tokens, tuning, self.cfg.train.lora)

    @property
    def perplexity(self) -> PerplexityIdentity:
        e = self.cfg.evaluation
        return PerplexityIdentity(self.engine("sampling"), e.bootstrap_samples, e.confidence)

    @property
    def templated(self) -> bool:
        """Whether prompts are drawn from a template, without end."""
        return self.cfg.prompts.kind in TEMPLATED and self.cfg.generation.kind == "none"

    @property
    def gate(self) -> GateIdentity:
        return gate_identity(self.cfg.gate, self.leaks, templated=self.templated)

    @property
    def embeddings(self) -> EmbeddingsIdentity:
        return embeddings_identity(self.cfg.gate)

    def proposals(self, iteration: int, round: int) -> ProposalsIdentity:
        generation = self.cfg.generation
        way = WAYS[generation.kind]
        return ProposalsIdentity(
            only(generation, (*proposals.SETTINGS, *way.settings)),
            iteration,
            round,
            way.texts,
            self.engine("sampling"),
        )

    def document_prompts(self, iteration: int) -> DocumentPromptsIdentity:
        return DocumentPromptsIdentity(iteration, self.cfg.prompts.per_iteration)

    def new_prompts(self, wanted: int) -> NewPromptsIdentity:
        gate = self.cfg.gate
        leaks = LeaksIdentity(True, gate.run_of_words, gate.resemblance)  # the next proposal takes its place
        generation = only(self.cfg.generation, new_prompts.SETTINGS)
        return NewPromptsIdentity(generation, leaks, wanted)

    @property
    def tuning(self) -> TuneIdentity:
        texts = _judged_by() if "ratings" in self.cfg.tuning.learned else ()
        in_use = self.cfg.tuning.in_use
        if "verdicts" in in_use:
            in_use["verdicts"] = self.cfg.verdicts
        return TuneIdentity(in_use, self.cfg.train.lora, texts)

    @property
    def independent_judge(self) -> TuneIdentity:
        """It learns from all ratings that are kept for it: how much policy 0 learns from is nothing to it."""
        tuning = only(self.cfg.tuning, OPTIMISER) | {"verdicts": "duels"}
        return TuneIdentity(tuning, self.cfg.train.lora, _judged_by())

    @property
    def agreement(self) -> AgreementIdentity:
        e = self.cfg.evaluation
        return AgreementIdentity(self.judgements("judge"), e.bootstrap_samples, e.confidence)

    def judgements(self, role: Role) -> JudgementsIdentity:
        return judgements_identity(self.cfg.judge, self.engine(role))

    @property
    def pairs(self) -> PairsIdentity:
        return PairsIdentity(self.cfg.pairs)

    @property
    def policy(self) -> PolicyIdentity:
        return PolicyIdentity(only(self.cfg.train, train.SETTINGS), self.cfg.train.lora)

    @property
    def evaluation(self) -> EvaluationIdentity:
        e = self.cfg.evaluation
        return EvaluationIdentity(e.bootstrap_samples, e.confidence, pairwise.TEXTS, self.engine("evaluation"))


def _judged_by() -> tuple[str, ...]:
    """What a judge is asked, and told to say, where it is taught."""
    asked = (text for mode in ("expected", "sampled") for text in rubric.TEXTS[mode])
    return (*asked, *REASONS, *pairwise.TEXTS)
