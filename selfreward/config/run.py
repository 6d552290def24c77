"""A whole run: all groups of settings together, and what follows from several of them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from selfreward.config.data import (
    DataConfig,
    DocumentsConfig,
    GateConfig,
    GenerationConfig,
    PromptsConfig,
    SeedFileConfig,
)
from selfreward.config.machine import EngineConfig, LaunchConfig, MemoryConfig, ModelConfig, SpeedConfig, TrackingConfig
from selfreward.config.method import (
    EvaluationConfig,
    JudgeConfig,
    PairsConfig,
    SamplingConfig,
    TrainConfig,
    TuningConfig,
)
from selfreward.config.ranges import number
from selfreward.store.identity import Execution


@dataclass
class RunConfig(Execution):
    """A whole run: `python -m selfreward.run iteration=3` makes policy 3 exist."""

    iteration: int = number(3, least=0)  # the policy to make; 0 is the base model, or what it is tuned to
    seed: int = number(0, least=0, most=2**31 - 1)
    name: str = "default"  # an experiment sets its own
    output_dir: str = "outputs/${name}"
    artifacts_dir: str | None = None  # by default `artifacts` beside `output_dir`
    model: ModelConfig = field(default_factory=ModelConfig)
    prompts: PromptsConfig = field(default_factory=PromptsConfig)
    documents: DocumentsConfig = field(default_factory=DocumentsConfig)
    generation: GenerationConfig = field(default_factory=GenerationConfig)
    gate: GateConfig = field(default_factory=GateConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    pairs: PairsConfig = field(default_factory=PairsConfig)
    data: DataConfig = field(default_factory=DataConfig)
    tuning: TuningConfig = field(default_factory=TuningConfig)
    people: SeedFileConfig = field(default_factory=SeedFileConfig)  # answers they rated, to hold the judge against
    train: TrainConfig = field(default_factory=TrainConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    engines: dict[str, EngineConfig] = field(default_factory=dict)  # further ones, for judge.engine, evaluation.engine
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    speed: SpeedConfig = field(default_factory=SpeedConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    launch: LaunchConfig = field(default_factory=LaunchConfig)

    @property
    def tunes(self) -> bool:
        """Whether there is supervised training before the loop."""
        reads = self.documents.path is not None and self.documents.most_tokens != 0
        return reads or bool(self.tuning.learned) or self.evaluation.judge == "independent"

    @property
    def rephrases(self) -> bool:
        """Whether the model writes documents in other words: to learn from these, or to take questions from them."""
        used = self.documents.rephrased_share > 0 or self.generation.kind == "documents"
        return self.documents.path is not None and used

    @property
    def seed_files(self) -> dict[str, SeedFileConfig]:
        """The files of what people wrote, by their keys."""
        tuning = self.tuning
        return {"tuning.demonstrations": tuning.demonstrations, "tuning.ratings": tuning.ratings, "people": self.people}

    @property
    def rated(self) -> str | None:
        """The key of the file of people's ratings that a judge is held against; None where there is none."""
        if self.people.path:
            return "people"
        kept = self.tuning.ratings.held_out and self.evaluation.judge != "independent"
        return "tuning.ratings" if kept else None

    @property
    def verdicts(self) -> str:
        """The judge's modes that are taught: what `tuning` says; where that is auto, the one in which it is asked."""
        return self.judge.mode if self.tuning.verdicts == "auto" else self.tuning.verdicts

    def reference_logprobs(self, *, sampled: bool) -> str:
        """`recorded` or `computed`: what `train` says. Where that is auto, recorded if in float32 this process itself
        `sampled` from the policy that is the reference, for then they equal computed ones to rounding."""
        if self.train.reference_logprobs != "auto":
            return self.train.reference_logprobs
        exact = self.model.dtype == "float32" and self.engine.kind == "hf" and not self.engine.merge_adapter
        return "recorded" if exact and sampled else "computed"


def artifacts_dir(cfg: RunConfig) -> Path:
    """The folder of the artifacts that runs share."""
    return Path(cfg.artifacts_dir) if cfg.artifacts_dir else Path(cfg.output_dir).parent / "artifacts"


def schema_key(key: str) -> str:
    """The key in the schema: a further engine has the settings that the run's own has."""
    return re.sub(r"^engines\.[^.]+\.", "engine.", key)
