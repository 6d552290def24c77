"""How long does a whole iteration take, against one script of `generate` and `DPOTrainer`?
`python experiments/bench/iteration.py`

Sample, judge three times, pair, train, answer held-out prompts, judge these, and hold each against policy 0's in both
orders. With the settings of `make run`, and of them the second iteration: policies have adapters there, as in all that
follow. The model is that of `make run`, tuned for some minutes so that it writes verdicts which can be read, and is
loaded once on each side.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # without a network it holds up the end of the process

import adapters
import torch
from baseline import Choice, plain_trainer
from generating import FAST, Generating, Way
from harness import clocked, report
from judging import Scores, best_way, judge_plain
from pairs import PEOPLE_ASKED
from sampling import DECODING

from selfreward.compose import compose_run
from selfreward.config import RunConfig
from selfreward.judges import pairwise
from selfreward.loop import loop
from selfreward.model import model_files
from selfreward.model.adapters import Adapter
from selfreward.model.models import Models
from selfreward.pairing.base import Scored
from selfreward.pairing.best_worst import pair
from selfreward.records import Candidate, PreferencePair, Prompt
from selfreward.sources import SOURCES
from selfreward.stages.tools import Tools
from selfreward.store import Store

CHOICE = Choice("eager", 2, autocast=False, checkpointing=False)  # what training.py finds fastest
DUELS_AT_ONCE = 8


def main() -> None:
    """Print one line for each mode of the judge."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5, help="timed iterations of each side")
    parser.add_argument("--prompts", type=int, default=16, help="of the iteration; half as many again are held out")
    parser.add_argument("--only", choices=["sampled", "expected"], help="one of the judge's modes")
    chosen = parser.parse_args()
    runs = chosen.runs
    model = graded_model()
    wanted = [chosen.only] if chosen.only else ["sampled", "expected"]
    modes = {mode: settings(model, mode, chosen.prompts) for mode in wanted}
    tools = {mode: ready(cfg, model) for mode, cfg in modes.items()}
    plain = Models(model, FAST, "auto")
    times: dict[str, list[float]] = {name: [] for name in (*modes, "script")}
    stages: dict[str, dict[str, float]] = {mode: {} for mode in modes}
    parts: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        begun = {mode: Begun(cfg, tools[mode], Path(folder) / mode) for mode, cfg in modes.items()}
        first = begun[wanted[0]]
        way = best_way({FAST: plain}, first.adapter, first.opponents)
        for run in range(runs):
            for mode in modes:
                times[mode].append(our_iteration(begun[mode], stages[mode]))
            times["script"].append(plain_iteration(plain, first, way, parts))
            print({name: round(seconds[run]) for name, seconds in times.items()}, file=sys.stderr, flush=True)
    for mode in modes:
        report(
            f"judge={mode}, against a script whose judge writes",
            times[mode],
            times["script"],
            f"1 iteration of {chosen.prompts} prompts",
            against=str(way),
            ours_s_by_stage=rounded(stages[mode], runs),
            baseline_s_by_stage=rounded(parts, runs),
        )


class Begun:
    """A run after iteration 1: its folder of artifacts, policy 1, and policy 0's answers to held-out prompts."""

    def __init__(self, cfg: RunConfig, tools: Tools, folder: Path) -> None:
        self.cfg, self.tools, self.folder = cfg, tools, folder
        self.identity = model_files.identify(tools.model_folder, cfg.model.dtype)
        first, second = islice(loop(cfg, self.identity, Store(folder, tools)), 2)
        self.opponents = first["held_out_candidates"].read(Candidate)
        adapter = tools.adapter(second["policy"])
        assert adapter, "iteration 1 trains an adapter"
        self.adapter = adapter


def graded_model() -> Path:
    """A folder with the model of `make run` into which the grader is merged."""
    folder = adapters.FOLDER.parent / "graded"
    if not (folder / "config.json").exists():
        cfg = compose_run([])
        models = Models(model_files.locate(cfg.model.name, cfg.model.revision), FAST, "auto")
        with models.policy(adapters.grader(models)) as model:
            merged: Any = model
            merged.merge_and_unload().save_pretrained(folder)
        models.chat.tokenizer.save_pretrained(folder)
    return folder


def settings(model: Path, mode: str, prompts: int) -> RunConfig:
    """The settings of `make run`, but for the model, the judge's mode, the number of prompts, and people's where
    these are at hand."""
    asked = ["prompts=file", f"prompts.path={PEOPLE_ASKED}"] if PEOPLE_ASKED.exists() else []
    return compose_run(
        [
            f"model.name={model}",
            *asked,
            f"prompts.per_iteration={prompts}",
            f"prompts.held_out={3 * prompts // 2}",
            f"judge={mode}",
            "iteration=2",
            "sampling.max_prompt_tokens=256",
        ]
    )


def ready(cfg: RunConfig, model: Path) -> Tools:
    """The tools of a run, with the model loaded."""
    tools = Tools(SOURCES[cfg.prompts.kind](cfg.prompts, cfg.data), model, Path(cfg.output_dir), cfg)
    _ = tools.models.base
    return tools


def our_iteration(begun: Begun, stages: dict[str, float]) -> float:
    """Seconds of iteration 2."""
    with tempfile.TemporaryDirectory() as copy:
        shutil.copytree(begun.folder, copy, dirs_exist_ok=True)
        steps = loop(begun.cfg, begun.identity, Store(Path(copy), begun.tools))
        for _ in range(2):
            next(steps)  # what was begun
        seconds, made = clocked(partial(next, steps))
        for name, artifact in made.items():
            stages[name] = stages.get(name, 0.0) + artifact.manifest.cost.seconds
    return seconds


def plain_iteration(models: Models, begun: Begun, way: Way, parts: dict[str, float]) -> float:
    """Seconds of the same work by a script."""
    cfg, pool = begun.cfg, begun.tools.pool
    asked, held_out = (
        [prompt for prompt in some if len(models.chat.render(prompt.prompt)) <= cfg.sampling.max_prompt_tokens]
        for some in (pool.select(cfg.prompts.per_iteration, 2, cfg.seed), pool.held_out)
    )
    before = sum(parts.values())

    def clock(name: str, action: Any) -> Any:
        seconds, result = clocked(action)
        parts[name] = parts.get(name, 0.0) + seconds
        return result

    candidates = clock("sample", lambda: plain_sample(models, begun.adapter, way, asked, cfg.sampling.n))
    scores = clock("judge", lambda: judge_plain({FAST: models}, begun.adapter, way, cfg.judge, candidates))
    pairs = paired(candidates, scores, cfg)
    with tempfile.TemporaryDirectory() as folder:
        trained = Adapter("script", Path(folder))
        clock("train", lambda: plain_train(models, pairs, cfg, begun.adapter, trained))
        answers = clock("evaluation answers", lambda: plain_sample(models, trained, way, held_out, 1))
        clock("evaluation scores", lambda: judge_plain({FAST: models}, None, way, cfg.judge, answers))
        clock("evaluation duels", lambda: plain_duels(models, way, answers, begun.opponents))
    return sum(parts.values()) - before


def plain_sample(
    models: Models, adapter: Adapter | None, way: Way, prompts: Sequence[Prompt], answers: int
) -> list[Candidate]:
    """Answers by `generate`."""
    ids = [models.chat.render(prompt.prompt) for prompt in prompts]
    with Generating({FAST: models}, adapter, way) as generating:
        made = generating.sample(ids, answers, DECODING)
    return [
        Candidate(prompt.prompt_id, prompt.prompt, k, models.chat.decode(row), prompt_ids, row, [], True)
        for prompt, prompt_ids, rows in zip(prompts, ids, made, strict=True)
        for k, row in enumerate(rows)
    ]


@torch.inference_mode()
def plain_duels(models: Models, way: Way, answers: Sequence[Candidate], opponents: Sequence[Candidate]) -> list[float]:
    """The base model's probability that an answer is better, in both orders, from the next token's logits."""
    theirs = {opponent.prompt_id: opponent.text for opponent in opponents}
    chat = models.chat
    choices = chat.choices(pairwise.OPENING, ["A", "B"])
    duels = [pairwise.Duel(answer.prompt, answer.text, theirs[answer.prompt_id]) for answer in answers]
    messages = [message for duel in duels for message in pairwise.build_messages(duel)]
    prompts = sorted((chat.render(message) + choices.opening_ids for message in messages), key=len)
    models.base.set_attn_implementation(way.attention)
    found: list[float] = []
    for start in range(0, len(prompts), DUELS_AT_ONCE):
        inputs = chat.tokenizer.pad(
            {"input_ids": prompts[start : start + DUELS_AT_ONCE]}, return_tensors="pt", padding_side="left"
        ).to(models.base.device)
        logits = models.base(**inputs, logits_to_keep=1).logits[:, -1, choices.choice_ids]
        found += logits.float().softmax(-1)[:, 0].tolist()
    return found


def paired(candidates: Sequence[Candidate], scores: Scores, cfg: RunConfig) -> list[PreferencePair]:
    """Best against worst, as the loop pairs them."""
    by_prompt: dict[str, list[Scored]] = {}
    for candidate in candidates:
        score = scores.get((candidate.prompt_id, candidate.index))
        if score is not None:
            by_prompt.setdefault(candidate.prompt_id, []).append(Scored(candidate, score))
    pairs: list[PreferencePair] = []
    for scored in by_prompt.values():
        if len(scored) > 1 and (chosen := pair(scored, cfg.pairs.margin)):
            one, other = chosen.chosen, chosen.rejected
            pairs.append(
                PreferencePair(
                    one.candidate.prompt_id,
                    one.candidate.prompt,
                    one.candidate.prompt_ids,
                    one.candidate.index,
                    one.candidate.token_ids,
                    [],
                    one.score,
                    other.candidate.index,
                    other.candidate.token_ids,
                    [],
                    other.score,
                )
            )
    return pairs


def plain_train(models: Models, pairs: Sequence[PreferencePair], cfg: RunConfig, start: Adapter, made: Adapter) -> None:
    """One epoch of plain trl from an adapter; the trained one is saved and taken off again."""
    base: Any = models.base
    trainer = plain_trainer(base, models.chat.tokenizer, pairs, cfg.train, CHOICE, start.folder)
    try:
        trainer.train()
        trainer.save_model(str(made.folder))
    finally:
        model: Any = trainer.model
        model.unload()
        vars(base).pop("forward", None)
        base.requires_grad_(False)
        base.eval()


def rounded(seconds: dict[str, float], runs: int) -> dict[str, float]:
    """Mean seconds of each part."""
    return {name: round(value / runs, 1) for name, value in seconds.items()}


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
