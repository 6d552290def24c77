"""Small artifacts of a run, as a report is made of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from selfreward.records import Candidate, Comparison, Judgement, PreferencePair, Prompt, to_table
from selfreward.store import Artifact, Cost, Manifest
from selfreward.store.identity import file_sha256
from selfreward.store.manifest import FileEntry
from selfreward.tracking.metrics import Iteration

SCRIPT = "<script>alert(1)</script>"
SETTINGS = {"seed": 0, "name": SCRIPT, "train": {"beta": 0.1, "lora": {"r": 16}}, "model": {"revision": None}}

ASKED = {
    "judge": {"kind": "rubric"},
    "texts": ["Grade it."],
    "engine": {"kind": "hf", "merge_adapter": False, "tokenizer": None, "model": None},
}
TAKEN = {
    "origin": "p.jsonl",
    "prompts": 11,
    "left_out": {"prompt is null": 1},
    "first_left_out": {"prompt is null": "p.jsonl, line 3"},
}
GATED = {"came": 11, "prompts": 9, "left_out": {"is a near duplicate": 2}, "redacted": {"e-mail": 1}}
GATED |= {"examples_left_out": {"is a near duplicate": [f"again {SCRIPT}"]}, "languages": {"en": 9}}
GATED |= {"words": [4, 6, 9], "mean_words": 6.3, "distinct_1": 0.8, "distinct_2": 0.9, "self_bleu": 0.1}
AGREED = {
    "pairs": 40,
    "agreement": 0.7,
    "agreement_low": 0.6,
    "agreement_high": 0.8,
    "longer_agreement": 0.66,
    "agreement_ties": 0.1,
}
AGREED |= {"pairs_alike": 9, "agreement_alike": 0.6, "agreement_alike_low": 0.4, "agreement_alike_high": 0.8}
AGREED |= {"longer_agreement_alike": 0.5, "agreement_ties_alike": 0.2, "answers": 50, "unscored": 0}
PARITY = {"difference": 0.012, "largest_difference": 0.25, "rounding": 0.01, "adapter_share": None}


class Maker:
    """Makes small artifacts below a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._made = 0

    def artifact(self, stage: str, metrics: dict[str, Any], rows: Sequence[Any] = (), config: Any = None) -> Artifact:
        self._made += 1
        folder = self.root / stage / f"{self._made:012}"
        folder.mkdir(parents=True)
        files: dict[str, FileEntry] = {}
        if rows:
            path = folder / "shard-00000.parquet"
            pq.write_table(to_table(rows, type(rows[0])), path)
            files[path.name] = FileEntry(file_sha256(path), path.stat().st_size, len(rows))
        cost = Cost(1.5, 100, 1 << 30)
        manifest = Manifest(
            stage, 1, folder.name, config, {}, 0, files, metrics, cost, libraries={"python": "3.11"}, git_revision="abc"
        )
        return Artifact(folder, manifest)

    def held_out(self, duels: Sequence[Comparison], rate: float, low: float, high: float) -> dict[str, Artifact]:
        texts: dict[str, Any] = {
            "answers": 24,
            "scored": 24,
            "prompts_too_long": 0,
            "mean_score": 2.0,
            "parse_failure_rate": 0.0,
            "mean_tokens": 9.0,
        }
        texts |= {"finished_share": 0.5, "distinct_1": 0.5, "distinct_2": 0.8}
        won = {"win_rate": rate, "win_rate_low": low, "win_rate_high": high, "win_rate_shown": not low <= 0.5 <= high}
        won |= {
            "confidence": 0.95,
            "preference": 0.5,
            "ties": 1,
            "choice_mass": 0.9,
            "order_agreement": 0.25,
            "length_win_rate": 0.6,
        }
        won |= {"controlled_win_rate": 0.44, "controlled_win_rate_low": 0.3, "controlled_win_rate_high": 0.6}
        return {
            "held_out_candidates": self.artifact("candidates", {"lengths": [8, 10], "finished_share": 0.5}),
            "held_out_judgements": self.artifact("judgements", {"scores": [1.0, 3.0]}, config=ASKED),
            "evaluation": self.artifact(
                "evaluations", texts | (won if duels else {}), duels, ASKED | {"bootstrap_samples": 2000}
            ),
        }

    def trained(
        self,
        candidates: Sequence[Candidate],
        judgements: Sequence[Judgement],
        pairs: Sequence[PreferencePair],
        duels: Sequence[Comparison],
        rate: tuple[float, float, float] = (0.46, 0.25, 0.67),
    ) -> Iteration:
        scores = [judgement.score for judgement in judgements if judgement.score is not None]
        lengths = [len(candidate.token_ids) for candidate in candidates]
        written: dict[str, Any] = {"prompts": 9, "prompts_too_long": 2, "candidates": len(candidates)}
        written |= {"lengths": lengths, "mean_tokens": 3.0, "finished_share": 0.5, "distinct_share": 1.0}
        scored = {"scores": scores, "highest_score": 5, "mean_score": 2.0, "parse_failure_rate": 0.1}
        paired = {"pairs": len(pairs), "yield": 0.5, "tie_rate": 0.25, "chosen_tokens": 3.0, "rejected_tokens": 2.0}
        curve = {"steps": 2, "loss": [0.693, 0.6], "reward_margin": [0.0, 0.1], "reward_accuracy": [0.0, 1.0]}
        gate = {"gate": {"personal": "redact"}}
        return {
            "source": self.artifact("prompts", TAKEN, config={"source": {"kind": "seed_pool"}}),
            "prompts": self.artifact("gate", GATED, [Prompt("a", f"asked {SCRIPT}", "advice")], gate),
            "candidates": self.artifact("candidates", written, candidates),
            "judgements": self.artifact("judgements", scored, judgements, ASKED),
            "pairs": self.artifact("pairs", paired, pairs, {"pairs": {"kind": "best_worst", "margin": 0.0}}),
            "policy": self.artifact("policies", curve, config={"train": {"loss": "sigmoid"}}),
            "parity": self.artifact("parity", PARITY | {"difference": 0.046}),
            **self.held_out(duels, *rate),
        }

    def first(self) -> Iteration:
        alone = {"policy": self.artifact("policies", {}), "parity": self.artifact("parity", PARITY)}
        return alone | self.held_out([], 0, 0, 0)


def candidate(prompt_id: str, index: int, text: str, finished: bool = True) -> Candidate:
    return Candidate(prompt_id, f"prompt {prompt_id} {SCRIPT}", index, text, [1], [1, 2, 3], [-1.0] * 3, finished)


def judgement(prompt_id: str, index: int, score: float | None, replies: Sequence[str] = ()) -> Judgement:
    return Judgement(prompt_id, index, score, [] if score is None else [score], list(replies), None)


def pair(prompt_id: str, chosen: int, rejected: int) -> PreferencePair:
    return PreferencePair(prompt_id, "", [1], chosen, [1], [-1.0], 4.0, rejected, [1], [-1.0], 1.0)


def duel(text: str = f"new {SCRIPT}", first: float = 0.9, second: float = 0.2) -> Comparison:
    return Comparison("h", f"held-out {SCRIPT}", text, 4, 2.5, f"old {SCRIPT}", 5, first, second, 0.9)
