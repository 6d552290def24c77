"""How fast are answers judged, against `generate` and the same parser?  `python experiments/bench/judging.py`

Candidates by the model of `make run`, four to a prompt, judged under an adapter that writes verdicts which can be read.
A valid score is a candidate's: the mean of its three judgements, or of as many as can be read.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from functools import partial
from statistics import mean

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # without a network it holds up the end of the process

import adapters
import torch
from generating import FAST, Generating, Way
from harness import clocked, report
from sampling import ANSWERS, DECODING, SAMPLING_ROWS, SCORING_TOKENS, asked, load_models

from selfreward.config import JudgeConfig
from selfreward.engines.base import Decoding, SampleRequest
from selfreward.engines.hf import HFEngine
from selfreward.errors import VerdictError
from selfreward.judges import rubric
from selfreward.judges.base import JudgeContext
from selfreward.model.adapters import Adapter
from selfreward.model.models import Models
from selfreward.records import Candidate
from selfreward.threads import set_threads

BLOCK = 64  # candidates in one timed run: those of an iteration with the settings of `make run`
WAYS_TO_JUDGE = [Way("sdpa", 64), Way("eager", 64), Way("sdpa", 32)]  # float32 samples at half the speed

Scores = dict[tuple[str, int], float]


def main() -> None:
    """Print one line a case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5, help="timed runs of each side (64 candidates)")
    runs = parser.parse_args().runs
    set_threads()
    ours, models = load_models()[FAST], load_models()
    engine = HFEngine(ours, SAMPLING_ROWS, SCORING_TOKENS, merge_adapter=False)
    candidates = answers(engine, runs * BLOCK // ANSWERS)
    adapter = adapters.grader(ours)
    judges = {mode: partial(judge_ours, engine, adapter, JudgeConfig(mode=mode)) for mode in ("expected", "sampled")}
    way = best_way(models, adapter, candidates[: BLOCK // 2])
    judges["generate"] = partial(judge_plain, models, adapter, way, JudgeConfig(mode="sampled"))
    for judge in judges.values():
        judge(candidates[:2])  # warms up
    engine.decoded = engine.kept = 0

    seconds: dict[str, list[float]] = {name: [] for name in judges}
    scores: dict[str, Scores] = {name: {} for name in judges}
    for run in range(runs):
        block = candidates[run * BLOCK : (run + 1) * BLOCK]
        for name, judge in judges.items():
            taken, found = clocked(partial(judge, block))
            seconds[name].append(taken / max(len(found), 1))
            scores[name] |= found
    valid = {name: len(found) for name, found in scores.items()}
    reply = round(engine.kept / (3 * len(candidates)))
    for name in ("sampled", "expected"):
        report(
            f"{name}, against 3 replies by generate",
            seconds[name],
            seconds["generate"],
            "1 valid score",
            against=str(way),
            candidates=len(candidates),
            valid=valid[name],
            baseline_valid=valid["generate"],
            **(
                {"kept_share": round(engine.kept / engine.decoded, 3), "tokens_a_reply": reply}
                if name == "sampled"
                else {}
            ),
            rank_correlation_with_sampled=rank_correlation(scores["expected"], scores["sampled"]),
            sampled_with_generate=rank_correlation(scores["sampled"], scores["generate"]),
        )


def answers(engine: HFEngine, prompts: int) -> list[Candidate]:
    """Four candidates to each of the first prompts."""
    texts = asked(prompts)
    rendered = [engine.chat.render(text) for text in texts]
    requests = [SampleRequest(ids, [place * ANSWERS + k for k in range(ANSWERS)]) for place, ids in enumerate(rendered)]
    made = engine.sample(requests, DECODING, None, lambda *_: None)
    return [
        Candidate(str(place), text, k, engine.chat.decode(c.token_ids), ids, c.token_ids, c.logprobs, c.finished)
        for place, (text, ids, completions) in enumerate(zip(texts, rendered, made, strict=True))
        for k, c in enumerate(completions)
    ]


def judge_ours(engine: HFEngine, adapter: Adapter, config: JudgeConfig, candidates: Sequence[Candidate]) -> Scores:
    """Scores by the project's own judge."""
    judgements = rubric.judge(candidates, config, JudgeContext(engine, adapter, 0, lambda *_: None))
    return {(j.prompt_id, j.index): j.score for j in judgements if j.score is not None}


def judge_plain(
    models: dict[str, Models], adapter: Adapter | None, way: Way, config: JudgeConfig, candidates: Sequence[Candidate]
) -> Scores:
    """Scores by `generate`, from the same words, read by the same parser."""
    chat = models[way.dtype].chat
    prompts = [chat.render(rubric.build_message(candidate, "sampled")) for candidate in candidates]
    decoding = Decoding(config.temperature, config.top_p, config.max_new_tokens)
    with Generating(models, adapter, way) as generating:
        replies = generating.sample(prompts, config.samples, decoding)
    found: Scores = {}
    for candidate, rows in zip(candidates, replies, strict=True):
        if parsed := [score for row in rows if (score := read(chat.decode(row))) is not None]:
            found[candidate.prompt_id, candidate.index] = mean(parsed)
    return found


def read(reply: str) -> float | None:
    """The score that a reply states, if it states one."""
    try:
        return rubric.parse(reply)
    except VerdictError:
        return None


def best_way(models: dict[str, Models], adapter: Adapter, candidates: Sequence[Candidate]) -> Way:
    """The way that judges fastest, by replies of a third of the length."""
    short = JudgeConfig(mode="sampled", max_new_tokens=JudgeConfig.max_new_tokens // 3)
    times: dict[Way, float] = {}
    for way in WAYS_TO_JUDGE:
        judge_plain(models, adapter, way, JudgeConfig(mode="sampled", max_new_tokens=2), candidates[:2])  # warms up
        times[way], _ = clocked(partial(judge_plain, models, adapter, way, short, candidates))
    return min(times, key=times.__getitem__)


def rank_correlation(one: Scores, other: Scores) -> float | None:
    """Spearman's, ties sharing their mean rank; None where fewer than three candidates have both scores."""
    both = sorted(one.keys() & other.keys())
    if len(both) < 3:
        return None
    ranks = torch.stack([_ranks([scores[key] for key in both]) for scores in (one, other)])
    return round(torch.corrcoef(ranks)[0, 1].item(), 3)


def _ranks(values: Sequence[float]) -> torch.Tensor:
    column = torch.tensor(values, dtype=torch.float64)
    below = (column[None] < column[:, None]).sum(1)
    return below + ((column[None] == column[:, None]).sum(1) - 1) / 2


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
