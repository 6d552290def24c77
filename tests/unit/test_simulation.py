"""Simulated prompts: without end, apart from those held out; a verifier that scores them; pass rates with intervals."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfreward.compose import compose_run
from selfreward.config import DataConfig, JudgeConfig, PromptsConfig
from selfreward.engines.base import Advance
from selfreward.errors import ConfigError
from selfreward.judges import JUDGES
from selfreward.judges.base import JudgeContext
from selfreward.kinds import check_settings
from selfreward.model.chat import Chat
from selfreward.records import Candidate, Prompt
from selfreward.simulation.checks import Check, dump, load, scores
from selfreward.sources import SOURCES
from selfreward.sources.constraints import SEEN, UNSEEN
from selfreward.sources.pool import Pool
from selfreward.stages.evaluate import pass_gains, pass_rates
from tests.unit.making import candidate

UNSEEN_KINDS = "all_lowercase, without_commas"
LOWER, NO_COMMAS = Check("all_lowercase", {}), Check("without_commas", {})


def pool(**changes: object) -> Pool:
    values: dict[str, object] = {"kind": "constraints", "held_out": 20, "unseen_kinds": UNSEEN_KINDS}
    return SOURCES["constraints"](PromptsConfig(**values | changes), DataConfig())  # pyright: ignore[reportArgumentType]


def kinds(prompts: list[Prompt]) -> set[str]:
    return {check.kind for prompt in prompts for check in load(prompt.check)}


# Prompts


@settings(max_examples=10)
@given(st.integers(0, 2**31), st.integers(1, 4))
def test_an_iteration_has_its_number_of_prompts_and_none_of_another_or_of_those_held_out(
    seed: int, iteration: int
) -> None:
    source = pool()
    earlier = [p.prompt_id for t in range(1, iteration) for p in source.select(50, t, seed)]
    now = [p.prompt_id for p in source.select(50, iteration, seed)]
    assert len(set(now)) == 50
    assert not set(now) & {*earlier, *(p.prompt_id for p in source.held_out)}


def test_the_same_seed_gives_the_same_prompts_and_another_seed_others() -> None:
    source = pool()
    assert source.select(20, 2, seed=1) == source.select(20, 2, seed=1) != source.select(20, 2, seed=2)


def test_what_is_held_out_does_not_depend_on_a_seed_and_half_of_it_has_kinds_that_training_never_sees() -> None:
    source = pool()
    seen, unseen = ([p for p in source.held_out if p.category == name] for name in (SEEN, UNSEEN))
    assert len(seen) == len(unseen) == 10
    assert kinds(unseen) == {"all_lowercase", "without_commas"}
    assert not (kinds(seen) | kinds(source.select(200, 1, 0))) & kinds(unseen)


def test_other_constraints_are_another_source() -> None:
    identities = [pool().source, pool(unseen_kinds="").source, pool(most_constraints=3).source]
    assert len({identity.content for identity in identities}) == 3


def test_a_kind_that_is_not_there_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"^prompts.unseen_kinds=steam: no steam; there are all_lowercase, "):
        pool(unseen_kinds="steam")


# The verifier


def context() -> JudgeContext:
    nobody: Any = None  # the verifier asks no engine
    return JudgeContext(nobody, None, 0, lambda *_: None)


def checked(index: int, text: str, *checks: Check, prompt_id: str = "p", category: str = SEEN) -> Candidate:
    return replace(candidate(prompt_id, index, text), check=dump(checks), category=category)


def test_the_verifier_scores_the_share_of_constraints_kept() -> None:
    answers = [checked(i, text, LOWER, NO_COMMAS) for i, text in enumerate(["rain; wind", "rain, wind", "Rain, wind"])]
    judged = JUDGES["verifier"].judge(answers, JudgeConfig(kind="verifier"), context())
    assert [j.score for j in judged] == [1.0, 0.5, 0.0]
    assert all(j.samples == [j.score] for j in judged)  # one verdict each: none is unreadable


@pytest.mark.parametrize(
    ("text", "finished", "score"),
    [
        ("4 boxes of 3 eggs make 12", True, 1.0),
        ("4 boxes of 3 eggs make 12", False, 0.0),
        ("The answer is 12. To see why", False, 1.0),
    ],
)
def test_the_last_number_of_an_answer_that_was_cut_off_is_not_its_result(
    text: str, finished: bool, score: float
) -> None:
    asked = replace(candidate(), text=text, finished=finished, check=dump([Check("final_answer", {"answer": "12"})]))
    (judged,) = JUDGES["verifier"].judge([asked], JudgeConfig(kind="verifier"), context())
    assert judged.score == score


def test_the_verifier_refuses_prompts_that_carry_nothing_to_check() -> None:
    with pytest.raises(ConfigError, match=r"^judge.kind=verifier: .* take prompts=constraints"):
        JUDGES["verifier"].judge([candidate()], JudgeConfig(kind="verifier"), context())


class Rubric:
    """An engine that gives each answer its own distribution over the scores 0 to 5: the text's number alone."""

    def __init__(self, chat: Chat) -> None:
        self.chat = chat
        self.asked: list[str] = []

    def score(
        self, prompts: Sequence[list[int]], choice_ids: Sequence[int], adapter: None, advance: Advance
    ) -> list[list[float]]:
        advance(len(prompts), 0)
        return [[0.0 if value == 4 else -math.inf for value in range(len(choice_ids))] for _ in prompts]


@pytest.mark.parametrize(("weight", "scores"), [(1.0, [1.0, 0.5]), (0.0, [0.8, 0.8]), (0.5, [0.9, 0.65])])
def test_the_ensemble_weighs_what_code_checks_against_what_the_model_says(
    tiny_model: Path, weight: float, scores: list[float]
) -> None:
    answers = [checked(i, text, LOWER, NO_COMMAS) for i, text in enumerate(["rain; wind", "rain, wind"])]
    engine: Any = Rubric(Chat(tiny_model))
    judged = JUDGES["ensemble"].judge(
        answers, JudgeConfig(kind="ensemble", verifier_weight=weight), replace(context(), engine=engine)
    )
    assert [j.score for j in judged] == pytest.approx(scores)


def test_an_ensemble_without_the_model_s_score_has_none(tiny_model: Path) -> None:
    engine: Any = Rubric(Chat(tiny_model))
    engine.score = lambda prompts, choice_ids, *_: [[-math.inf] * len(choice_ids)] * len(prompts)
    judged = JUDGES["ensemble"].judge(
        [checked(0, "rain", LOWER)], JudgeConfig(kind="ensemble"), replace(context(), engine=engine)
    )
    assert judged[0].score is None


def test_right_answers_of_a_file_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "problems.jsonl"
    path.write_text(
        "".join(json.dumps({"question": f"What is {i} + 1?", "answer": f"#### {i + 1}"}) + "\n" for i in range(9))
    )
    columns = {"prompt_column": "question", "answer_column": "answer", "per_iteration": 2, "held_out": 2}
    prompts = SOURCES["file"](PromptsConfig(kind="file", path=str(path), **columns), DataConfig()).train
    for prompt in prompts:
        number = int(prompt.prompt.split()[2])
        assert scores(f"That makes {number + 1}.", load(prompt.check)) == [1.0]
        assert scores(f"That makes {number}.", load(prompt.check)) == [0.0]


def test_an_answer_column_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = tmp_path / "problems.jsonl"
    path.write_text('{"prompt": "What is 1 + 1?"}\n')
    with pytest.raises(ConfigError, match=r"^prompts.answer_column=answer: problems.jsonl has the columns prompt; "):
        SOURCES["file"](PromptsConfig(kind="file", path=str(path), answer_column="answer"), DataConfig())


@pytest.mark.parametrize("judge", ["verifier", "ensemble"])
def test_a_judge_that_checks_is_refused_where_prompts_carry_nothing_to_check(judge: str) -> None:
    wrong = r"^judge.kind=\w+: prompts=seed_pool carry nothing to check; use prompts=constraints or reasoning, or name "
    with pytest.raises(ConfigError, match=wrong):
        check_settings(compose_run([f"judge={judge}"]))
    for prompts in (["prompts=constraints"], ["prompts=word_problems", "prompts.path=mine.jsonl"]):
        check_settings(compose_run([f"judge={judge}", *prompts]))


# Pass rates


def test_an_answer_passes_when_all_its_checks_hold_and_categories_are_counted_apart() -> None:
    answers = [
        checked(0, "rain; wind", LOWER, NO_COMMAS, prompt_id="a"),
        checked(0, "rain, wind", LOWER, NO_COMMAS, prompt_id="b"),
        checked(0, "rain", LOWER, prompt_id="c", category=UNSEEN),
    ]
    assert pass_rates(answers) == {"pass_rate": 2 / 3, "pass_rate/seen": 1 / 2, "pass_rate/unseen": 1.0}


def test_answers_without_checks_have_no_pass_rate() -> None:
    assert pass_rates([candidate()]) == {}


def test_the_gain_is_over_the_same_prompts_and_its_interval_holds_it() -> None:
    after = [checked(0, "rain", LOWER, prompt_id=str(i)) for i in range(20)]
    before = {a.prompt_id: replace(a, text="Rain" if int(a.prompt_id) < 10 else "rain") for a in after}
    gains = pass_gains(after, before, samples=500, confidence=0.95, seed=0)
    assert gains["pass_gain"] == 0.5
    assert 0 < gains["pass_gain_low"] < 0.5 < gains["pass_gain_high"] < 1
    assert gains["pass_gain_shown"]


@pytest.mark.parametrize(("gained", "shown"), [(0, False), (4, False), (6, True)])
def test_a_gain_that_a_coin_would_often_show_is_not_shown(gained: int, shown: bool) -> None:
    """Of four prompts that are gained and none lost the interval leaves out zero, and a coin falls so once in eight
    times."""
    after = [checked(0, "rain", LOWER, prompt_id=str(i)) for i in range(24)]
    before = {a.prompt_id: replace(a, text="Rain" if int(a.prompt_id) < gained else "rain") for a in after}
    gains = pass_gains(after, before, samples=2000, confidence=0.95, seed=0)
    assert (gains["pass_gain_low"] > 0) == (gained > 0)
    assert gains["pass_gain_shown"] is shown


@pytest.mark.parametrize("category", ["low", "high", "seen_low", ""])
def test_whatever_a_category_is_called_it_takes_no_other_metrics_name(category: str) -> None:
    after = [checked(0, "rain", LOWER, prompt_id=str(i), category=category if i < 10 else "others") for i in range(20)]
    before = {a.prompt_id: replace(a, text="Rain" if int(a.prompt_id) < 5 else "rain") for a in after}
    gains = pass_gains(after, before, samples=500, confidence=0.95, seed=0)
    names = ["pass_gain", "pass_gain_low", "pass_gain_high", "pass_gain_shown"]
    kinds = ["", "/others", f"/{category}"] if category else ["", "/others"]
    assert sorted(gains) == sorted(name + kind for name in names for kind in kinds)
    assert [gains[f"pass_gain{kind}"] for kind in kinds] == [1 / 4, 0, 1 / 2][: len(kinds)]
    assert gains["pass_gain_low"] < 1 / 4 < gains["pass_gain_high"]
