"""The pairs that the benchmarks train on: real prompts, two sampled answers each, scored by the model itself.

They are made once, by the project's own stages, and kept with the other artifacts. The prompts are what people asked
(OASST2) where the development data is at hand, and the built-in ones elsewhere.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from selfreward.compose import compose_run
from selfreward.config import RunConfig
from selfreward.loop import StageSettings
from selfreward.model import model_files
from selfreward.records import PreferencePair
from selfreward.sources import SOURCES
from selfreward.stages.base_policy import BASE_POLICY, BasePolicyIdentity
from selfreward.stages.candidates import CANDIDATES
from selfreward.stages.judgements import JUDGEMENTS
from selfreward.stages.pairs import PAIRS
from selfreward.stages.prompts import PROMPTS, PromptsIdentity
from selfreward.stages.tools import Tools
from selfreward.store import Store

ARTIFACTS = Path("outputs/bench")
COUNT = 64
PEOPLE_ASKED = Path("../shared/data/ift_oasst2_rank0.jsonl")


def settings(*, longest: bool = False) -> RunConfig:
    """The settings of `make run`, but for the prompts, two candidates each, and enough of them for 64 pairs.

    `longest` takes the longest of what people asked, which needs the development data.
    """
    count = COUNT + 16
    changes = [f"prompts.per_iteration={count}", "sampling.n=2", f"artifacts_dir={ARTIFACTS}"]
    if longest:
        changes += ["prompts=file", f"prompts.path={_longest_prompts(count + 1)}", "prompts.held_out=1"]
    elif PEOPLE_ASKED.exists():
        changes += ["prompts=file", f"prompts.path={PEOPLE_ASKED}"]
    return compose_run(changes)


def _longest_prompts(count: int) -> Path:
    """A file of them, outside the project."""
    prompts = {json.loads(line)["prompt"] for line in PEOPLE_ASKED.read_text().splitlines()}
    short_enough = [prompt for prompt in prompts if len(prompt) < 1600]  # characters: below the limit in tokens
    chosen = sorted(short_enough, key=lambda prompt: (-len(prompt), prompt))[:count]
    path = Path(tempfile.mkdtemp()) / "longest.jsonl"
    path.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in chosen))
    return path


def real_pairs(cfg: RunConfig) -> list[PreferencePair]:
    """64 pairs of policy 0."""
    folder = model_files.locate(cfg.model.name, cfg.model.revision)
    tools = Tools(SOURCES[cfg.prompts.kind](cfg.prompts, cfg.data), folder, Path(cfg.output_dir), cfg)
    store, stages = Store(ARTIFACTS, tools), StageSettings(cfg)
    policy = store.run(BASE_POLICY, BasePolicyIdentity(model_files.identify(folder, cfg.model.dtype)))
    prompts = store.run(PROMPTS, PromptsIdentity(tools.pool.source, 1, cfg.prompts.per_iteration), seed=cfg.seed)
    candidates = store.run(CANDIDATES, stages.candidates, {"prompts": prompts, "policy": policy}, cfg.seed)
    judgements = store.run(
        JUDGEMENTS, stages.judgements("judge"), {"candidates": candidates, "policy": policy}, cfg.seed
    )
    pairs = store.run(PAIRS, stages.pairs, {"candidates": candidates, "judgements": judgements})
    return pairs.read(PreferencePair)[:COUNT]
