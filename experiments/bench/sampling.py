"""How fast does a policy answer, against `generate`?  `python experiments/bench/sampling.py`

The model of `make run`, what people asked, four answers each of up to 96 tokens, with an adapter (as in every iteration
but the first) and without. A GPU answers 240 prompts at once, a CPU 16.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from statistics import median

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # without a network it holds up the end of the process

import adapters
import torch
from generating import FAST, WAYS, Generating, Way
from harness import clocked, report
from pairs import PEOPLE_ASKED

from selfreward.compose import compose_run
from selfreward.engines.base import Decoding, Engine, SampleRequest
from selfreward.engines.hf import HFEngine
from selfreward.model import model_files
from selfreward.model.adapters import Adapter
from selfreward.model.models import Models
from selfreward.sources import SOURCES
from selfreward.sources.seed_pool import PATH
from selfreward.stages.tools import Tools
from selfreward.threads import set_threads

ON_GPU = torch.cuda.is_available()
PROMPTS = 240 if ON_GPU else 64
BLOCK = 240 if ON_GPU else 16  # prompts in one timed run
ANSWERS = 4
DECODING = Decoding(0.7, 0.9, 96)
SAMPLING_ROWS, SCORING_TOKENS = (1024, 32768) if ON_GPU else (64, 2048)  # what the memory plan takes


def main() -> None:
    """Print one line a case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=6, help="timed runs of each side")
    parser.add_argument("--only", choices=["generate", "vllm"], help="one of the other sides")
    chosen = parser.parse_args()
    set_threads()
    ours, models = load_models()[FAST], load_models()
    prompts = [ours.chat.render(text) for text in asked(PROMPTS)]
    if chosen.only != "generate":
        compare_vllm(ours, prompts, chosen.runs)
    if chosen.only == "vllm":
        return
    for case, adapter in (("with an adapter", adapters.policy(ours)), ("without", None)):
        compare(case, ours, models, prompts, adapter, chosen.runs)


def compare(
    case: str,
    ours: Models,
    models: dict[str, Models],
    prompts: Sequence[list[int]],
    adapter: Adapter | None,
    runs: int,
) -> None:
    """Both sides in alternation, a block of prompts a run."""
    engine = HFEngine(ours, SAMPLING_ROWS, SCORING_TOKENS, merge_adapter=False)
    way = best_way(models, adapter, prompts[:BLOCK])
    sample_ours(engine, prompts[:2], adapter, 0)  # warms up
    engine.decoded = engine.kept = 0
    mine: list[float] = []
    theirs: list[float] = []
    for run in range(runs):
        start = run * BLOCK % len(prompts)
        block = prompts[start : start + BLOCK]
        mine_now = partial(sample_ours, engine, block, adapter, run)
        plain = partial(sample_plain, models, adapter, way, block, DECODING)
        for side, action in ((mine, mine_now), (theirs, plain)):
            seconds, kept = clocked(action)
            side.append(1000 * seconds / kept)  # answers differ in length by chance
    report(
        case,
        mine,
        theirs,
        "1,000 kept tokens",
        against=str(way),
        ours_kept_tokens_per_s=round(1000 / median(mine)),
        baseline_kept_tokens_per_s=round(1000 / median(theirs)),
        kept_share=round(engine.kept / engine.decoded, 3),
    )


def compare_vllm(ours: Models, prompts: Sequence[list[int]], runs: int) -> None:
    """The same against a vLLM server that the project starts, with the adapter; skipped where vLLM is not installed."""
    cfg = compose_run(["engine=vllm"])
    if not os.access(str(cfg.engine.python), os.X_OK):
        print(f"skipped: no {cfg.engine.python}; make test-vllm builds it", file=sys.stderr)
        return
    adapter = adapters.policy(ours)
    engine = HFEngine(ours, SAMPLING_ROWS, SCORING_TOKENS, merge_adapter=False)
    mine: list[float] = []
    theirs: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        tools = Tools(SOURCES[cfg.prompts.kind](cfg.prompts, cfg.data), ours.folder, Path(folder), cfg)
        with closing(tools):
            server = tools.engine_of("sampling")
            for warm in (engine, server):
                sample_ours(warm, prompts[:2], adapter, 0)
            for run in range(runs):
                start = run * BLOCK % len(prompts)
                block = prompts[start : start + BLOCK]
                for side, runner in ((mine, engine), (theirs, server)):
                    seconds, kept = clocked(partial(sample_ours, runner, block, adapter, run))
                    side.append(1000 * seconds / kept)
    report(
        "with an adapter, against vLLM",
        mine,
        theirs,
        "1,000 kept tokens",
        ours_kept_tokens_per_s=round(1000 / median(mine)),
        baseline_kept_tokens_per_s=round(1000 / median(theirs)),
    )


def load_models() -> dict[str, Models]:
    """The model of `make run`, in each type of number that is tried."""
    cfg = compose_run([])
    folder = model_files.locate(cfg.model.name, cfg.model.revision)
    return {dtype: Models(folder, dtype, "auto") for dtype in {way.dtype for way in WAYS}}


def asked(count: int) -> list[str]:
    """What people asked, in the order of the file; the built-in prompts where the development data is not at hand."""
    path = PEOPLE_ASKED if PEOPLE_ASKED.exists() else Path(PATH)
    texts = dict.fromkeys(json.loads(line)["prompt"] for line in path.read_text().splitlines())
    return [text for text in texts if len(text) < 1200][:count]


def sample_ours(engine: Engine, prompts: Sequence[list[int]], adapter: Adapter | None, run: int) -> int:
    """Tokens of the answers that an engine of the project makes."""
    requests = [
        SampleRequest(prompt, [run * 10_000 + place * ANSWERS + k for k in range(ANSWERS)])
        for place, prompt in enumerate(prompts)
    ]
    made = engine.sample(requests, DECODING, adapter, lambda *_: None)
    return sum(len(completion.token_ids) for answers in made for completion in answers)


def sample_plain(
    models: dict[str, Models], adapter: Adapter | None, way: Way, prompts: Sequence[list[int]], decoding: Decoding
) -> int:
    """Tokens of the answers that `generate` makes."""
    with Generating(models, adapter, way) as generating:
        return sum(len(row) for rows in generating.sample(prompts, ANSWERS, decoding) for row in rows)


def best_way(models: dict[str, Models], adapter: Adapter | None, prompts: Sequence[list[int]]) -> Way:
    """The way that keeps most tokens a second, by answers of a third of the length."""
    short = Decoding(DECODING.temperature, DECODING.top_p, DECODING.max_new_tokens // 3)
    speeds: dict[Way, float] = {}
    for way in WAYS:
        sample_plain(models, adapter, way, prompts[:2], Decoding(0.7, 0.9, 4))  # warms up
        seconds, kept = clocked(partial(sample_plain, models, adapter, way, prompts, short))
        speeds[way] = kept / seconds
    return max(speeds, key=speeds.__getitem__)


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
