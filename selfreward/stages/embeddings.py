"""How far an iteration's prompts are apart by what they mean: to be looked at. Nothing is made of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from selfreward.config import GateConfig
from selfreward.errors import ConfigError
from selfreward.hygiene.clusters import embedding_metrics
from selfreward.model import model_files
from selfreward.records import Prompt
from selfreward.stages.tools import Tools
from selfreward.store import Artifact, Identity, Metrics, Stage, Work


@dataclass(frozen=True)
class EmbeddingsIdentity(Identity):
    """The content of the model that embeds."""

    model: str


def embeddings_identity(cfg: GateConfig) -> EmbeddingsIdentity:
    """Of a run's settings. Raises `ConfigError` for a model that is not there."""
    return EmbeddingsIdentity(model_files.identify(_embedder(cfg), "float32").content)


def measure(config: EmbeddingsIdentity, parents: Mapping[str, Artifact], work: Work, tools: Tools) -> Metrics:
    """How far `parents["prompts"]` lie apart, and how evenly they cluster."""
    texts = [prompt.prompt for prompt in parents["prompts"].read(Prompt)]
    return {"texts": len(texts), **embedding_metrics(texts, str(_embedder(tools.cfg.gate)))}


def _embedder(cfg: GateConfig) -> Path:
    try:
        return model_files.locate(str(cfg.embedding_model), None)
    except ConfigError as error:
        raise ConfigError("gate.embedding_model", error.value, error.remedy) from error


EMBEDDINGS = Stage("embeddings", 1, measure)
