"""Records and artifacts made by hand, for tests of one stage or one function."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfreward.config import EngineConfig, ModelConfig, PromptsConfig, RunConfig
from selfreward.records import Candidate, Comparison, Judgement
from selfreward.rows import Skipped
from selfreward.sources.pool import Pool, identify
from selfreward.stages.tools import Tools
from selfreward.store import Artifact, Identity, Metrics, Stage, Store


def candidate(prompt_id: str = "p", index: int = 0, text: str = "An answer.", tokens: int = 3) -> Candidate:
    """A candidate of `tokens` tokens, each its place in the answer."""
    token_ids = [100 * index + place for place in range(tokens)]
    return Candidate(
        prompt_id, f"Prompt {prompt_id}?", index, text, [7, 8], token_ids, [-float(i) for i in token_ids], True
    )


def judgement(prompt_id: str, index: int, score: float | None) -> Judgement:
    """A judgement as of a judge that reads the next-token distribution."""
    return Judgement(prompt_id, index, score, [] if score is None else [score], [], 0.9)


def comparison(
    first: float = 0.5,
    second: float = 0.5,
    text: str = "policy",
    baseline: str = "baseline",
    tokens: int = 1,
    baseline_tokens: int = 1,
) -> Comparison:
    """A comparison in which the judge prefers the policy's answer with these probabilities."""
    return Comparison("p", "Prompt?", text, tokens, 3.0, baseline, baseline_tokens, first, second, 0.9)


def tools(model: Path = Path("no model")) -> Tools:
    """Tools with an empty pool; without a model of their own, only for stages that load none."""
    pool = Pool(identify(PromptsConfig(kind="file"), "0"), [], [], Skipped())
    cfg = RunConfig(model=ModelConfig(name=str(model), dtype="float32"), engine=EngineConfig(device="cpu"))
    return Tools(pool, model, Path("no run"), cfg)


@dataclass(frozen=True)
class _ByHand(Identity):
    rows: int


def artifact(
    store: Store[Tools], name: str, rows: Sequence[Any], record: type[Any], metrics: Metrics | None = None
) -> Artifact:
    """An artifact that holds `rows`, made by the store as any other is."""

    def function(config: _ByHand, parents: Any, work: Any, tools: Tools) -> Metrics:
        work.shards([rows], list, record)
        return metrics or {}

    return store.run(Stage(name, 1, function), _ByHand(len(rows)))
