"""The report: what it says, what it escapes, and that it needs nothing from elsewhere."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest

from selfreward.store import Artifact
from selfreward.tracking.metrics import Iteration
from selfreward.tracking.report import flatten, write_report
from tests.unit.reporting import (
    AGREED,
    ASKED,
    SCRIPT,
    SETTINGS,
    Maker,
    candidate,
    duel,
    judgement,
    pair,
)


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


def test_marks_each_policy_of_which_something_was_shown(tmp_path: Path, iterations: list[Iteration]) -> None:
    first, trained = iterations
    evaluation = trained["evaluation"]
    metrics = evaluation.metrics | {"win_rate_shown": True}
    shown = {**trained, "evaluation": replace(evaluation, manifest=replace(evaluation.manifest, metrics=metrics))}
    rows = re.findall(r'<tr><th scope="row">\d</th>(.*?)</tr>', written(tmp_path, [first, shown, trained]))
    assert [" *</td>" in row for row in rows] == [False, True, False]


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


def test_the_judge_is_never_shown_without_its_baseline(tmp_path: Path, iterations: list[Iteration]) -> None:
    text = " ".join(written(tmp_path, iterations).replace("\N{NO-BREAK SPACE}", " ").split())
    assert "The judge is policy 0 itself" in text
    assert "in both orders in 25 % of duels between answers that differ: in most of them the order" in text
    assert "longer answer would have given policy 1 a win rate of 60 %" in text


def test_where_all_answers_are_equal_nothing_is_said_of_the_order(tmp_path: Path, iterations: list[Iteration]) -> None:
    evaluation = iterations[1]["evaluation"]
    metrics = evaluation.metrics | {"order_agreement": None}
    equal = {**iterations[1], "evaluation": replace(evaluation, manifest=replace(evaluation.manifest, metrics=metrics))}
    html = written(tmp_path, [iterations[0], equal])
    assert "in both orders in" not in html
    assert "Always taking the longer answer" in html


def test_scores_within_the_margin_are_not_said_to_tie(tmp_path: Path, iterations: list[Iteration]) -> None:
    trained = dict(iterations[1])
    settings = {"pairs": {"kind": "best_worst", "margin": 0.5}}
    trained["pairs"] = replace(trained["pairs"], manifest=replace(trained["pairs"].manifest, config=settings))
    html = written(tmp_path, [iterations[0], trained])
    assert "no pair: the scores differ by no more than 0.5" in html and "the scores tie<" not in html


def test_a_judge_tuned_apart_is_named_where_it_has_scored_policy_0_alone(
    tmp_path: Path, iterations: list[Iteration]
) -> None:
    first = dict(iterations[0])
    scored = first["held_out_judgements"]
    first["held_out_judgements"] = replace(
        scored, manifest=replace(scored.manifest, parents={"policy": "independent_judges/1"})
    )
    assert "Here one judge, an independent judge where it asks a model" in written(tmp_path, [first])
    assert "Here one judge, policy 0 where it asks a model" in written(tmp_path, iterations[:1])


def judged_by(artifact: Artifact, model: str) -> Artifact:
    """The same, as by an outside engine that runs `model`."""
    config = ASKED | {"bootstrap_samples": 2000, "engine": {"kind": "server", "tokenizer": "a/folder", "model": model}}
    return replace(artifact, manifest=replace(artifact.manifest, config=config))


def test_outside_judges_are_named(tmp_path: Path, iterations: list[Iteration]) -> None:
    own = " ".join(written(tmp_path, iterations).split())
    trained = dict(iterations[1])
    trained["judgements"] = judged_by(trained["judgements"], "judge-x")
    trained["evaluation"] = judged_by(trained["evaluation"], "judge-y")
    outside = " ".join(written(tmp_path, [iterations[0], trained]).split())
    for by_policy, by_model in [
        ("answers prompts and judges its own answers;", "answers prompts and judge-x judges the answers;"),
        ("wrote and scored the candidates;", "wrote the candidates, judge-x scored them;"),
        ("The judge is policy 0 itself, so a win says what policy 0", "The judge is judge-y, so a win says what it"),
        ("judged by policy 0 in both orders", "judged by judge-y in both orders"),
        ("<figcaption>Judged by policy 0.", "<figcaption>Judged by judge-y."),
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
    agreed = Maker(tmp_path / "more").artifact("agreements", AGREED)
    first, trained = ({**iteration, "agreement": agreed} for iteration in iterations)
    assert "<b>Its judge and people</b>" not in written(tmp_path, [first, iterations[1]])  # a judge that is no policy's
    html = written(tmp_path, [first, trained])
    assert "<b>Its judge and people</b>" in html
    row = next(row for row in re.findall(r"<tr>.*?</tr>", html) if '<th scope="row">1</th>' in row)
    shown = re.sub(r"<.*?>", " ", row).replace("\N{NO-BREAK SPACE}", " ")
    assert "40 70.0 % 60 % to 80 % 66.0 % 60.0 % 40 % to 80 %" in " ".join(shown.split())


def test_shows_the_share_of_answers_that_pass_where_they_are_checked(
    tmp_path: Path, iterations: list[Iteration]
) -> None:
    assert "<b>Answers that pass</b>" not in written(tmp_path, iterations)
    checked: list[Iteration] = []
    for rate, iteration in zip((0.25, 0.5), iterations, strict=True):
        manifest = iteration["evaluation"].manifest
        passed = {"pass_rate": rate, "pass_rate/seen": rate, "pass_rate/unseen": rate / 2}
        evaluation = replace(iteration["evaluation"], manifest=replace(manifest, metrics=manifest.metrics | passed))
        checked.append({**iteration, "evaluation": evaluation})
    html = written(tmp_path, checked)
    assert "<b>Answers that pass</b>" in html
    assert "Checked by code" in html


def test_shows_where_prompts_came_from_and_what_became_of_them(tmp_path: Path, iterations: list[Iteration]) -> None:
    html = " ".join(written(tmp_path, iterations).split())
    assert "Taken from p.jsonl." in html
    assert "<li>Personal data is found by patterns: names and unusual forms pass.</li>" in html
    for name, count in [
        ("left out of the whole source: prompt is null", 1),
        ("came to the gate", 11),
        ("left out: is a near duplicate", 2),
        ("asked", 7),
    ]:
        assert f'<tr><td>{name}</td><td class="number">{count}</td>' in html
    for name, value in [("redacted", "1 e-mail"), ("languages", "en 9"), ("self-BLEU", "0.10")]:
        assert f"<span>{name}</span><code>{value}</code>" in html


def test_says_what_policy_0_comes_from(tmp_path: Path, iterations: list[Iteration]) -> None:
    maker, first = Maker(tmp_path / "more"), iterations[0]
    assert "Policy 0 is the base model.\nIn iteration t" in written(tmp_path, iterations)
    pretrained = {"pretrained": maker.artifact("policies", {})}
    graded = {"left_out": {}, "first_left_out": {}, "held_out": 9, "file": "ranked.jsonl", "redacted": {}}
    ratings = {
        "policy": maker.artifact("policies", {"drawn": {"ratings": 7}, "too_long": 0}),
        "ratings": maker.artifact("ratings", graded, config={"reading": {"format": "groups"}, "personal": "redact"}),
    }
    for more, said in [
        (pretrained, "Policy 0 has learned from documents."),
        (ratings, "Policy 0 is tuned on what people wrote."),
        (pretrained | ratings, "Policy 0 has learned from documents and is tuned on what people wrote."),
    ]:
        assert said in written(tmp_path, [{**first, **more}, *iterations[1:]])


def test_policy_0_alone_makes_a_report(tmp_path: Path, iterations: list[Iteration]) -> None:
    html = written(tmp_path, iterations[:1])
    assert "There is policy 0 alone" in html
    assert "In iteration t" not in html


def test_what_was_not_measured_is_left_open(tmp_path: Path, iterations: list[Iteration]) -> None:
    first = dict(iterations[0])
    manifest = first["evaluation"].manifest
    unscored = replace(manifest, metrics=manifest.metrics | {"mean_score": None})
    first["evaluation"] = replace(first["evaluation"], manifest=unscored)
    first["held_out_judgements"] = Maker(tmp_path / "none").artifact("judgements", {"scores": []})
    dash = "\N{EN DASH}"
    assert written(tmp_path, [first, *iterations[1:]]).count(dash) > written(tmp_path, iterations).count(dash)


def test_says_where_a_judge_of_duels_hardly_named_either_answer(tmp_path: Path, iterations: list[Iteration]) -> None:
    said = "of its probability fell on naming either answer"
    assert said not in written(tmp_path, iterations)
    trained = dict(iterations[-1])
    evaluation = trained["evaluation"]
    metrics = {**evaluation.metrics, "choice_mass": 0.2}
    trained["evaluation"] = replace(evaluation, manifest=replace(evaluation.manifest, metrics=metrics))
    assert f"Only 20\N{NO-BREAK SPACE}% {said}" in written(tmp_path, [*iterations[:-1], trained])


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


class _References(HTMLParser):
    """Collects what a page would load or link to."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = {"src", "href", "srcset", "action", "data", "poster", "background"}
        self.found += [value or "" for name, value in attrs if name in names]
