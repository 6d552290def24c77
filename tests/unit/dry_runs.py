"""Runs of which nothing is made but the artifacts' ids."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from selfreward.config import EngineConfig, RunConfig
from selfreward.loop import Iteration, loop
from selfreward.model.model_files import identify, locate
from selfreward.sources import SOURCES
from selfreward.stages.tools import Tools
from selfreward.store import Artifact, Cost, Manifest, Stage, Store
from selfreward.store.identity import artifact_id
from selfreward.tracking.metrics import full_ids

ANSWERS, SCORES, EVALUATION = "held_out_candidates", "held_out_judgements", "evaluation"
HELD_OUT = {ANSWERS, SCORES, EVALUATION}
POLICY = {"policy", "parity", *HELD_OUT}
TRAINED = {"candidates", "judgements", "pairs", "references", *POLICY}
"""The names of artifacts that stand and fall together."""


class DryStore(Store[Tools]):
    """A store that works out identities alone: no stage runs."""

    def run(
        self,
        stage: Stage[Any, Tools],
        config: Any,
        parents: Mapping[str, Artifact] | None = None,
        seed: int | None = None,
    ) -> Artifact:
        full_ids = {name: parent.full_id for name, parent in (parents or {}).items()}
        identifier = artifact_id(stage.name, stage.version, config, full_ids, seed)
        enough: dict[str, Any] = dict.fromkeys(("came", "prompts"), self.tools.cfg.prompts.per_iteration)
        enough["complaint"] = None
        manifest = Manifest(stage.name, stage.version, identifier, None, full_ids, seed, {}, enough, Cost())
        return Artifact(Path(), manifest)


def iterations(cfg: RunConfig) -> list[Iteration]:
    """What each iteration of a run would make."""
    pool = SOURCES[cfg.prompts.kind](cfg.prompts, cfg.data)
    folder = locate(cfg.model.name, cfg.model.revision)
    store = DryStore(Path(), Tools(pool, folder, Path(cfg.output_dir), cfg))
    return list(loop(cfg, identify(folder, cfg.model.dtype, cfg.train.quantization), store))


def artifacts(cfg: RunConfig) -> list[dict[str, str]]:
    """The same, as `<stage>/<id>` by the artifact's name."""
    return [full_ids(iteration) for iteration in iterations(cfg)]


def moved(before: list[dict[str, str]], after: list[dict[str, str]]) -> list[set[str]]:
    """The names of the artifacts of each iteration that are others than they were, or are no longer made."""
    return [{name for name in old if old[name] != new.get(name)} for old, new in zip(before, after, strict=True)]


def dry_settings(folder: Path) -> RunConfig:
    """A run of one iteration, on prompts of its own and a model of a few bytes: nothing is loaded."""
    model = folder / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").write_bytes(b"weights")
    cfg = RunConfig(iteration=1, output_dir=str(folder / "outputs"))
    cfg.model.name = str(model)
    cfg.prompts.kind = "file"
    cfg.prompts.path = str(folder / "prompts.jsonl")
    cfg.prompts.category_column, cfg.prompts.held_out_column = "category", "split"
    cfg.prompts.per_iteration, cfg.prompts.held_out = 3, 2
    cfg.artifacts_dir = str(folder / "artifacts")
    tokenizer = folder / "outside"
    tokenizer.mkdir()
    (tokenizer / "tokenizer.json").write_text("{}")
    outside = EngineConfig("server", tokenizer=str(tokenizer))
    cfg.engines = {"another": EngineConfig(merge_adapter=True), "outside": outside}
    write_prompts(Path(cfg.prompts.path), 12)
    return cfg


def write_prompts(path: Path, count: int) -> None:
    parts = ["held_out" if i % 2 else "train" for i in range(count)]
    rows = [
        {"prompt": f"Say {i}.", "question": f"Why {i}?", "category": "a", "topic": "b", "split": part, "part": part}
        for i, part in enumerate(parts)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def learn_from_people(cfg: RunConfig) -> None:
    file = Path(cfg.output_dir).parent / "people.jsonl"
    file.write_text("{}")
    cfg.tuning.demonstrations.path = cfg.tuning.ratings.path = cfg.people.path = str(file)


def read_documents(cfg: RunConfig) -> None:
    folder = Path(cfg.output_dir).parent / "documents"
    folder.mkdir()
    (folder / "one.txt").write_text("A text.")
    cfg.documents.path = str(folder)
