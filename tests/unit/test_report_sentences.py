"""What a report says of a run in a sentence."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

from selfreward.tracking.charts import over_iterations
from selfreward.tracking.console import final_table, iteration_table
from selfreward.tracking.metrics import Iteration, separate_judge, summary
from selfreward.tracking.report import agreements, drift, duel_outcome, outcome, passes
from tests.unit.reporting import AGREED, SCRIPT, Maker, duel


def shown(table: Table) -> str:
    console = Console(width=200)
    with console.capture() as captured:
        console.print(table)
    return captured.get()


@pytest.mark.parametrize(
    ("rate", "figures", "conclusion"),
    [
        ((0.46, 0.25, 0.67), ("46 %", "25 % to 67 %"), "nothing was shown"),
        ((0.75, 0.55, 0.9), ("75 %", "55 % to 90 %"), "better than policy 0"),
        ((0.25, 0.1, 0.4), ("25 %", "10 % to 40 %"), "worse than policy 0"),
    ],
)
def test_states_the_outcome(
    tmp_path: Path, rate: tuple[float, float, float], figures: tuple[str, str], conclusion: str
) -> None:
    maker = Maker(tmp_path)
    iterations = [maker.first(), maker.trained([], [], [], [duel()], rate)]
    assert outcome(iterations).replace("\N{NO-BREAK SPACE}", " ") == (
        f"Policy 1 wins {figures[0]} of 24 duels against policy 0 (95 % interval {figures[1]}): {conclusion}."
    )


def test_held_out_prompts_that_were_too_long_are_told(tmp_path: Path) -> None:
    maker = Maker(tmp_path)
    last = maker.trained([], [], [], [duel()])
    last["evaluation"].metrics["prompts_too_long"] = 20
    said = " 20 more held-out prompts were longer than sampling.max_prompt_tokens."
    assert outcome([maker.first(), last]).endswith(said)


def test_a_score_of_some_answers_says_of_how_many(tmp_path: Path) -> None:
    first = Maker(tmp_path).first()
    first["evaluation"].metrics["scored"] = 9
    assert "2.00 (9 of 24)" in shown(final_table([first]))


def test_an_iteration_is_told_with_what_length_explains(tmp_path: Path) -> None:
    maker = Maker(tmp_path)
    last = maker.trained([], [], [], [duel()])
    last["judgements"].metrics["score_histogram"] = [0] * 10
    told = shown(iteration_table(last))
    assert "46 % [25, 67] over policy 0: nothing was shown; by length alone 60 %, at equal length 44 % [30, 60]" in told
    assert "loss 0.693 to 0.600, reward margin +0.100, accuracy 100 %" in told
    assert "46 % [25, 67]" in shown(final_table([maker.first(), last]))


def test_of_one_step_alone_nothing_is_told_that_it_did(tmp_path: Path) -> None:
    maker = Maker(tmp_path)
    first, last = maker.first(), maker.trained([], [], [], [duel()])
    charts = {"Reward margin", "Reward accuracy"}
    assert charts < {chart.title for chart in over_iterations([first, last])}
    last["judgements"].metrics["score_histogram"] = [0] * 10
    last["policy"].metrics.update(steps=1, loss=[0.693], reward_margin=[0.0], reward_accuracy=[0.0])
    assert "loss 0.693 before the one step that was taken" in shown(iteration_table(last))
    assert not {"train/loss_last", "train/reward_margin", "train/reward_accuracy"} & summary(last).keys()
    assert not charts & {chart.title for chart in over_iterations([first, last])}


@pytest.mark.parametrize(("texts", "judge"), [((), None), (("A rubric.",), "an independent judge")])
def test_a_judge_that_asks_no_model_is_nobodys(tmp_path: Path, texts: tuple[str, ...], judge: str | None) -> None:
    made = Maker(tmp_path).artifact("judgements", {}, config={"texts": texts, "engine": {"model": None}})
    assert separate_judge(dataclasses.replace(made.manifest, parents={"policy": "independent_judges/abc"})) == judge


@pytest.mark.parametrize(("loss", "told"), [("sigmoid", True), ("ipo", False)])
def test_a_loss_begins_at_ln_2_where_it_does(tmp_path: Path, loss: str, told: bool) -> None:
    maker = Maker(tmp_path)
    last = maker.trained([], [], [], [duel()])
    last["policy"].manifest.config["train"]["loss"] = loss
    captions = [chart.caption for chart in over_iterations([maker.first(), last])]
    assert any("ln 2" in caption for caption in captions) == told


def test_says_first_whether_answers_pass_more_often_where_code_checks_them(tmp_path: Path) -> None:
    checked = {"pass_rate": 0.41, "pass_gain": 0.16, "pass_gain_low": 0.07, "pass_gain_high": 0.23, "confidence": 0.95}
    checked |= {"pass_gain_shown": True}
    iterations = [
        {"evaluation": Maker(tmp_path / place).artifact("evaluations", metrics)}
        for place, metrics in (("before", {}), ("after", checked))
    ]
    assert passes(iterations).replace("\N{NO-BREAK SPACE}", " ") == (
        "41 % of policy 1's answers to held-out prompts pass all their checks, +16 points on policy 0 "
        "(95 % interval +7 to +23)."
    )
    assert passes(iterations[:1]) == ""


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
        "The judge of the base model puts 70 % of 40 pairs of answers as the people did who rated them (60 % to 80 %), "
        "a tie counting one half; preferring the longer one does 66 %."
    ]
    assert agreements({}) == []


def test_a_duel_is_decided_by_both_orders() -> None:
    assert duel_outcome(duel(first=0.9, second=0.2), "policy 1") == "policy 1 wins"
    assert duel_outcome(duel(first=0.7, second=0.2), "policy 1") == "policy 0 wins"
    assert duel_outcome(duel(first=0.7, second=0.3), "policy 1") == "tie"
    assert duel_outcome(duel(text=f"old {SCRIPT}"), "policy 1") == "tie"
