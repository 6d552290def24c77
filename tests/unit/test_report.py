"""The report: what it says, what it escapes, and that it needs nothing from elsewhere."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from selfreward.records import Candidate, Comparison, Judgement, PreferencePair, Prompt, to_table
from selfreward.store import Artifact, Cost, Manifest
from selfreward.store.identity import file_sha256
from selfreward.store.manifest import FileEntry
from selfreward.tracking.metrics import Iteration
from selfreward.tracking.report import agreements, drift, duel_outcome, flatten, outcome, write_report

SCRIPT = "<script>alert(1)</script>"
SETTINGS = {"seed": 0, "name": SCRIPT, "train": {"beta": 0.1, "lora": {"r": 16}}, "model": {"revision": None}}

ASKED = {"texts": ["Grade it."], "engine": {"kind": "hf", "merge_adapter": False, "tokenizer": None, "model": None}}
TAKEN = {"prompts": 11, "left_out": {"prompt is null": 1}, "first_left_out": {"prompt is null": "p.jsonl, line 3"}}
GATED = {"came": 11, "prompts": 9, "left_out": {"is a near duplicate": 2}, "redacted": {"e-mail": 1}}
GATED |= {"examples_left_out": {"is a near duplicate": [f"again {SCRIPT}"]}, "languages": {"en": 9}}
GATED |= {"words": [4, 6, 9], "mean_words": 6.3, "distinct_1": 0.8, "distinct_2": 0.9, "self_bleu": 0.1}
AGREED = {"pairs": 40, "agreement": 0.7, "agreement_low": 0.6, "agreement_high": 0.8, "longer_agreement": 0.66}
AGREED |= {"pairs_alike": 9, "agreement_alike": 0.6, "agreement_alike_low": 0.4, "agreement_alike_high": 0.8}
AGREED |= {"longer_agreement_alike": 0.5}
PARITY = {"difference": 0.012, "largest_difference": 0.25, "adapter_share": None}


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
        manifest = Manifest(stage, 1, folder.name, config, {}, 0, files, metrics, cost, {"python": "3.11"}, "abc")
        return Artifact(folder, manifest)

    def held_out(self, duels: Sequence[Comparison], rate: float, low: float, high: float) -> dict[str, Artifact]:
        texts: dict[str, Any] = {"answers": 24, "mean_score": 2.0, "parse_failure_rate": 0.0, "mean_tokens": 9.0}
        texts |= {"finished_share": 0.5, "distinct_1": 0.5, "distinct_2": 0.8}
        won = {"win_rate": rate, "win_rate_low": low, "win_rate_high": high, "win_rate_shown": not low <= 0.5 <= high}
        won |= {"confidence": 0.95, "preference": 0.5, "ties": 1, "order_agreement": 0.25, "length_win_rate": 0.6}
        won |= {"controlled_win_rate": 0.44, "controlled_win_rate_low": 0.3, "controlled_win_rate_high": 0.6}
        return {
            "held_out_candidates": self.artifact("candidates", {"lengths": [8, 10], "finished_share": 0.5}),
            "held_out_judgements": self.artifact("judgements", {"scores": [1.0, 3.0]}),
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
        return {
            "source": self.artifact("prompts", TAKEN, config={"source": {"kind": "seed_pool"}}),
            "prompts": self.artifact("gate", GATED, [Prompt("a", f"asked {SCRIPT}", "advice")]),
            "candidates": self.artifact("candidates", written, candidates),
            "judgements": self.artifact("judgements", scored, judgements, ASKED),
            "pairs": self.artifact("pairs", paired, pairs),
            "policy": self.artifact("policies", curve),
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
    return Comparison("h", f"held-out {SCRIPT}", text, 4, 2.5, f"old {SCRIPT}", 5, first, second)


@pytest.fixture
def iterations(tmp_path: Path) -> list[Iteration]:
    """Policy 0 and one iteration: a prompt with a pair, one that ties, one without enough scores, and one too many."""
    candidates = [
        candidate("a", 0, f"worst {SCRIPT}"),
        candidate("a", 1, "middle\n  indented", finished=False),
        candidate("a", 2, "best"),
        *(candidate(prompt_id, index, f"{prompt_id}{index}") for prompt_id in "bcd" for index in range(2)),
    ]
    judgements = [
        judgement("a", 0, 1.0, [f"Score: 1 {SCRIPT}", "no verdict"]),
        judgement("a", 1, 2.0),
        judgement("a", 2, 4.0),
        *(judgement("b", index, 3.0) for index in range(2)),
        judgement("c", 0, 3.0),
        judgement("c", 1, None),
        *(judgement("d", index, 3.0) for index in range(2)),
    ]
    maker = Maker(tmp_path / "artifacts")
    return [maker.first(), maker.trained(candidates, judgements, [pair("a", 2, 0)], [duel(), duel(), duel(), duel()])]


def written(tmp_path: Path, iterations: Sequence[Iteration], examples: int = 3) -> str:
    path = tmp_path / "report.html"
    write_report(path, f"run {SCRIPT}", SETTINGS, iterations, examples)
    return path.read_text()


def test_escapes_whatever_people_and_models_wrote(tmp_path: Path, iterations: list[Iteration]) -> None:
    html = written(tmp_path, iterations)
    assert "<script" not in html
    for text in ("run", "asked", "again", "prompt a", "worst", "Score: 1", "held-out", "new", "old"):
        assert f"{text} &lt;script&gt;alert(1)&lt;/script&gt;" in html


def test_marks_land_on_the_right_candidates(tmp_path: Path, iterations: list[Iteration]) -> None:
    html = written(tmp_path, iterations)
    answers = re.findall(r'<article class="answer (\w*)">(.*?)</article>', html, re.DOTALL)
    found = [
        (role, re.findall(r'<div class="text" dir="auto">(.*?)</div>', body, re.DOTALL)[0]) for role, body in answers
    ]
    marks = [re.findall(r'class="mark \w+">(\w+)<', body) for _, body in answers]
    assert [(role, unescape(text)) for role, text in found[:3]] == [
        ("chosen", "best"),
        ("", "middle\n  indented"),
        ("rejected", f"worst {SCRIPT}"),
    ]
    assert marks[:3] == [["chosen"], [], ["rejected"]]
    assert not any(marks[3:])
    assert ["<b>cut</b>" in body for _, body in answers[:3]] == [False, True, False]
    assert "1 of 2 replies state a score" in answers[2][1]


def test_says_why_a_prompt_has_no_pair_and_stops_at_the_limit(tmp_path: Path, iterations: list[Iteration]) -> None:
    html = written(tmp_path, iterations)
    assert re.findall(r'class="note">((?:no )?pair[^<]*)<', html) == [
        "pair: 4.000 over 1.000",
        "no pair: the scores tie",
        "no pair: no score for 1 of 2 candidates",
    ]
    assert "prompt d" not in html
    assert "The first 3 of 9 prompts" in html
    assert "2 more were longer than the limit" in html
    assert html.count("policy 1 wins</span></summary>") == 3


@pytest.mark.parametrize(
    ("rate", "figures", "verdict"),
    [
        ((0.46, 0.25, 0.67), ("46 %", "25 % to 67 %"), "nothing was shown"),
        ((0.75, 0.55, 0.9), ("75 %", "55 % to 90 %"), "better than policy 0"),
        ((0.25, 0.1, 0.4), ("25 %", "10 % to 40 %"), "worse than policy 0"),
    ],
)
def test_states_the_outcome(
    tmp_path: Path, rate: tuple[float, float, float], figures: tuple[str, str], verdict: str
) -> None:
    maker = Maker(tmp_path)
    iterations = [maker.first(), maker.trained([], [], [], [duel()], rate)]
    assert outcome(iterations).replace("\N{NO-BREAK SPACE}", " ") == (
        f"Policy 1 wins {figures[0]} of 24 duels against policy 0 (95 % interval {figures[1]}): {verdict}."
    )


def test_answers_that_drift_by_more_than_a_fifth_are_named(tmp_path: Path) -> None:
    def answered(tokens: float, distinct: float) -> Iteration:
        metrics = {"mean_tokens": tokens, "distinct_1": distinct, "distinct_2": 0.8}
        return {"evaluation": Maker(tmp_path / f"{tokens}").artifact("evaluations", metrics)}

    said = drift([answered(50, 0.5), answered(70, 0.25)]).replace("\N{NO-BREAK SPACE}", " ")
    assert (
        said
        == "Its answers have 140 % of policy 0's mean length, 50 % of policy 0's distinct-1: more than a fifth off."
    )
    assert drift([answered(51, 0.5), answered(60, 0.45)]) == ""


def test_judges_that_are_no_policys_are_held_against_people_too(tmp_path: Path) -> None:
    first = {"base_agreement": Maker(tmp_path).artifact("agreements", AGREED)}
    assert [said.replace("\N{NO-BREAK SPACE}", " ") for said in agreements(first)] == [
        "The judge of the base model puts 70 % of two answers as the people did who rated them (60 % to 80 %); "
        "preferring the longer one does 66 %."
    ]
    assert agreements({}) == []


def test_the_judge_is_never_shown_without_its_baseline(tmp_path: Path, iterations: list[Iteration]) -> None:
    text = " ".join(written(tmp_path, iterations).replace("\N{NO-BREAK SPACE}", " ").split())
    assert "The judge is policy 0 itself" in text
    assert "the same answer in both orders in 25 % of duels: in most of them the order" in text
    assert "longer answer would have given policy 1 a win rate of 60 %" in text


def judged_by(artifact: Artifact, model: str) -> Artifact:
    """The same, as by an outside engine that runs `model`."""
    config = ASKED | {"bootstrap_samples": 2000, "engine": {"kind": "server", "tokenizer": "a/folder", "model": model}}
    return replace(artifact, manifest=replace(artifact.manifest, config=config))


def test_an_outside_judge_and_an_outside_grader_are_named(tmp_path: Path, iterations: list[Iteration]) -> None:
    own = " ".join(written(tmp_path, iterations).split())
    trained = dict(iterations[1])
    trained["judgements"] = judged_by(trained["judgements"], "judge-x")
    trained["evaluation"] = judged_by(trained["evaluation"], "grader-y")
    outside = " ".join(written(tmp_path, [iterations[0], trained]).split())
    for by_policy, by_model in [
        ("answers prompts and judges its own answers;", "answers prompts and judge-x judges the answers;"),
        ("wrote and scored the candidates;", "wrote the candidates, judge-x scored them;"),
        ("The judge is policy 0 itself, so a win says what policy 0", "The judge is grader-y, so a win says what it"),
        ("judged by policy 0 in both orders", "judged by grader-y in both orders"),
        ("<figcaption>Policy 0 judges.", "<figcaption>grader-y judges."),
    ]:
        assert by_policy in own and by_model not in own
        assert by_model in outside and by_policy not in outside


def test_shows_how_far_the_engine_was_from_training_before_each_policy_was_used(
    tmp_path: Path, iterations: list[Iteration]
) -> None:
    rows = re.findall(r'<tr><th scope="row">(\d)</th>(.*?)</tr>', written(tmp_path, iterations))
    assert [(number, "<td>0.012</td>" in row, "<td>0.046</td>" in row) for number, row in rows] == [
        ("0", True, False),
        ("1", False, True),
    ]


def test_shows_how_far_the_judge_agrees_with_people_where_their_ratings_are_there(
    tmp_path: Path, iterations: list[Iteration]
) -> None:
    assert "Its judge and people" not in written(tmp_path, iterations)
    trained = {**iterations[1], "agreement": Maker(tmp_path / "more").artifact("agreements", AGREED)}
    html = written(tmp_path, [iterations[0], trained])
    assert "<b>Its judge and people</b>" in html
    row = next(row for row in re.findall(r"<tr>.*?</tr>", html) if '<th scope="row">1</th>' in row)
    shown = re.sub(r"<.*?>", " ", row).replace("\N{NO-BREAK SPACE}", " ")
    assert "70.0 % 60 % to 80 % 66.0 % 60.0 % 40 % to 80 %" in " ".join(shown.split())


def test_shows_the_share_of_answers_that_pass_where_they_are_checked(
    tmp_path: Path, iterations: list[Iteration]
) -> None:
    assert "<b>Answers that pass</b>" not in written(tmp_path, iterations)
    checked: list[Iteration] = []
    for rate, iteration in zip((0.25, 0.5), iterations, strict=True):
        manifest = iteration["evaluation"].manifest
        passed = {"pass_rate": rate, "pass_rate_seen": rate, "pass_rate_unseen": rate / 2}
        evaluation = replace(iteration["evaluation"], manifest=replace(manifest, metrics=manifest.metrics | passed))
        checked.append({**iteration, "evaluation": evaluation})
    html = written(tmp_path, checked)
    assert "<b>Answers that pass</b>" in html
    assert "Checked by code" in html


def test_shows_where_prompts_came_from_and_what_became_of_them(tmp_path: Path, iterations: list[Iteration]) -> None:
    html = " ".join(written(tmp_path, iterations).split())
    assert "Taken from the source seed_pool." in html
    for name, count in [
        ("left out: prompt is null", 1),
        ("came to the gate", 11),
        ("left out: is a near duplicate", 2),
        ("asked", 9),
    ]:
        assert f'<tr><td>{name}</td><td class="number">{count}</td>' in html
    for name, value in [("redacted", "1 e-mail"), ("languages", "en 9"), ("self-BLEU", "0.10")]:
        assert f"<span>{name}</span><code>{value}</code>" in html


def test_says_what_policy_0_comes_from(tmp_path: Path, iterations: list[Iteration]) -> None:
    maker, first = Maker(tmp_path / "more"), iterations[0]
    assert "Policy 0 is the base model. In" in written(tmp_path, iterations)
    pretrained = {"pretrained": maker.artifact("policies", {})}
    graded = {"left_out": {}, "first_left_out": {}, "held_out": 9}
    ratings = {"ratings": maker.artifact("ratings", graded, config={"reading": {"format": "groups"}})}
    for more, said in [
        (pretrained, "Policy 0 has learned from documents. In"),
        (ratings, "Policy 0 is tuned on what people wrote. In"),
        (pretrained | ratings, "Policy 0 has learned from documents and is tuned on what people wrote. In"),
    ]:
        assert said in written(tmp_path, [{**first, **more}, *iterations[1:]])


def test_policy_0_alone_makes_a_report(tmp_path: Path, iterations: list[Iteration]) -> None:
    assert "There is policy 0 alone" in written(tmp_path, iterations[:1])


def test_what_was_not_measured_is_left_open(tmp_path: Path, iterations: list[Iteration]) -> None:
    first = dict(iterations[0])
    manifest = first["evaluation"].manifest
    unscored = replace(manifest, metrics=manifest.metrics | {"mean_score": None})
    first["evaluation"] = replace(first["evaluation"], manifest=unscored)
    first["held_out_judgements"] = Maker(tmp_path / "none").artifact("judgements", {"scores": []})
    assert "\N{EN DASH}" in written(tmp_path, [first, *iterations[1:]])


def test_needs_nothing_from_elsewhere(tmp_path: Path, iterations: list[Iteration]) -> None:
    html = written(tmp_path, iterations)
    finder = _References()
    finder.feed(html)
    assert finder.found
    assert all(reference.startswith(("#", "data:image/svg+xml;base64,")) for reference in finder.found)
    assert "http://" not in html
    assert "https://" not in html
    assert "url(" not in html
    assert "@import" not in html
    for encoded in re.findall(r"base64,([^\"]+)", html):
        picture = base64.b64decode(encoded).decode()
        assert all(target.startswith("#") for target in re.findall(r'href="([^"]*)"', picture))


def test_writes_the_same_bytes_again(tmp_path: Path, iterations: list[Iteration]) -> None:
    assert written(tmp_path, iterations) == written(tmp_path, iterations)


def test_settings_are_flat_and_as_on_the_command_line() -> None:
    assert list(flatten(SETTINGS)) == [
        ("seed", "0"),
        ("name", SCRIPT),
        ("train.beta", "0.1"),
        ("train.lora.r", "16"),
        ("model.revision", "null"),
    ]


def test_a_duel_is_decided_by_both_orders() -> None:
    assert duel_outcome(duel(first=0.9, second=0.2), "policy 1") == "policy 1 wins"
    assert duel_outcome(duel(first=0.7, second=0.2), "policy 1") == "policy 0 wins"
    assert duel_outcome(duel(first=0.7, second=0.3), "policy 1") == "tie"
    assert duel_outcome(duel(text=f"old {SCRIPT}"), "policy 1") == "tie"


class _References(HTMLParser):
    """Collects what a page would load or link to."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = {"src", "href", "srcset", "action", "data", "poster", "background"}
        self.found += [value or "" for name, value in attrs if name in names]
