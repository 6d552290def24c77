"""What may stand where a setting names a kind, and the check of a whole configuration."""

from __future__ import annotations

from collections.abc import Mapping

from selfreward.config import RunConfig
from selfreward.documents.rephrase import styles
from selfreward.engines import ENGINES, check_engine
from selfreward.generation import WAYS
from selfreward.generation.evolve import operations
from selfreward.judges import JUDGES
from selfreward.pairing import PAIRINGS
from selfreward.roles import all_engines, check_all_used, check_engines
from selfreward.seeds.formats import FORMATS, check_format
from selfreward.sources import SOURCES
from selfreward.training.losses import LOSSES, check_loss, check_spread
from selfreward.validation import check_shared_engines, validate

KINDS: Mapping[str, Mapping[str, object]] = {
    "prompts.kind": SOURCES,
    "generation.kind": {"none": None, "documents": None, **WAYS},
    **{f"{file}.format": FORMATS for file in RunConfig().seed_files},
    "judge.kind": JUDGES,
    "pairs.kind": PAIRINGS,
    "engine.kind": ENGINES,
    "train.loss": LOSSES,
}


def check_settings(cfg: RunConfig) -> None:
    """Raise `ConfigError` for the first setting that can't be used, alone or with the others."""
    validate(cfg, KINDS)
    check_engines(cfg)
    operations(cfg.generation)
    styles(cfg.documents.styles)
    for key, file in cfg.seed_files.items():
        check_format(key, file)
    for key, engine in all_engines(cfg).items():
        check_engine(key, engine, cfg)
    check_loss(cfg.train, cfg.memory)
    processes = 1 if cfg.launch.kind == "single" else cfg.launch.processes
    check_spread(cfg.train, processes)
    check_shared_engines(cfg, processes)
    check_all_used(cfg)
