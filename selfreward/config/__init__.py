"""The typed schema of a run. Its defaults are the vetted ones; Hydra composes it from `conf/`; `validation` checks it.

`Identity` groups go into artifact ids whole. Of `Execution` groups those settings do that a stage copies into its own
identity, mostly in `stages/settings.py`; the rest changes only how things are made.
`listed` reads a setting of names joined by commas. Nothing here imports torch, so a mistake is reported before anything
loads.
"""

from selfreward.config.data import (
    TEMPLATED,
    DataConfig,
    DocumentsConfig,
    GateConfig,
    GenerationConfig,
    PromptsConfig,
    SeedFileConfig,
)
from selfreward.config.lists import listed, listed_among
from selfreward.config.machine import EngineConfig, LaunchConfig, MemoryConfig, ModelConfig, SpeedConfig, TrackingConfig
from selfreward.config.method import (
    EvaluationConfig,
    JudgeConfig,
    LoraConfig,
    PairsConfig,
    SamplingConfig,
    TrainConfig,
    TuningConfig,
)
from selfreward.config.run import RunConfig, artifacts_dir, schema_key

__all__ = [
    "TEMPLATED",
    "DataConfig",
    "DocumentsConfig",
    "EngineConfig",
    "EvaluationConfig",
    "GateConfig",
    "GenerationConfig",
    "JudgeConfig",
    "LaunchConfig",
    "LoraConfig",
    "MemoryConfig",
    "ModelConfig",
    "PairsConfig",
    "PromptsConfig",
    "RunConfig",
    "SamplingConfig",
    "SeedFileConfig",
    "SpeedConfig",
    "TrackingConfig",
    "TrainConfig",
    "TuningConfig",
    "artifacts_dir",
    "listed",
    "listed_among",
    "schema_key",
]
