"""What a policy is asked for, how its answers are read, and which of them become prompts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from selfreward.config import GenerationConfig
from selfreward.errors import ConfigError
from selfreward.generation import evolve, self_instruct
from selfreward.generation.filters import PromptFilter, greatest_rouge_l
from selfreward.records import Prompt, Proposal, Rating, prompt_id
from selfreward.stages.leaks import LeaksIdentity
from selfreward.stages.new_prompts import NEW_PROMPTS, SETTINGS, NewPromptsIdentity
from selfreward.store import Artifact, Store
from tests.unit.making import artifact, tools

SEEDS = [f"Explain to a {who} how a {what} is made." for who in ("child", "cook") for what in ("boat", "bell", "loaf")]
MADE = ["Write a toast for a wedding in winter.", "List reasons to keep bees in a city."]


# Asking


def test_so_many_prompts_are_shown_as_are_asked_for_and_a_share_of_them_was_made_before() -> None:
    cfg = GenerationConfig(kind="self_instruct", examples=4, generated_share=0.5)
    asked = self_instruct.ask(cfg, SEEDS, MADE, Random(0))
    assert len(asked.shown) == 4
    assert {*asked.shown} & {*MADE} == {*MADE}
    assert all(text in asked.message for text in asked.shown)
    assert asked.opening == "Request 5:"


def test_before_any_was_made_all_that_is_shown_is_of_the_source() -> None:
    asked = self_instruct.ask(GenerationConfig(examples=4, generated_share=0.5), SEEDS, [], Random(0))
    assert {*asked.shown} <= {*SEEDS}
    assert len(asked.shown) == 4


def test_the_same_chance_asks_the_same() -> None:
    cfg = GenerationConfig(kind="evolve")
    assert evolve.ask(cfg, SEEDS, MADE, Random(3)) == evolve.ask(cfg, SEEDS, MADE, Random(3))


@pytest.mark.parametrize("operation", list(evolve.OPERATIONS))
def test_each_operation_says_what_to_do_with_one_prompt(operation: str) -> None:
    asked = evolve.ask(GenerationConfig(kind="evolve", operations=operation), SEEDS, [], Random(0))
    assert evolve.OPERATIONS[operation] in asked.message
    assert len(asked.shown) == 1
    assert asked.shown[0] in asked.message


@pytest.mark.parametrize("operations", ["", "shorten", "deepen,shorten"])
def test_an_operation_that_is_not_there_is_named(operations: str) -> None:
    with pytest.raises(ConfigError, match="there are paraphrase, constrain, deepen, broaden"):
        evolve.operations(GenerationConfig(operations=operations))


# Reading


@pytest.mark.parametrize(
    ("reply", "read"),
    [
        (" Name a river.\nRequest 10: Name a sea.", "Name a river."),
        ('"Name a river."', "Name a river."),
        ("Name a river.\n\nSure! The Nile.", "Name a river."),
        ("**Name a river.**", "Name a river."),
        ("**Write** a poem about **love**", "**Write** a poem about **love**"),
        ('"To be" or "not to be"', '"To be" or "not to be"'),
        ("Fix this:\nI goes home.", "Fix this:\nI goes home."),
        ("  ", ""),
    ],
)
def test_the_first_request_is_read(reply: str, read: str) -> None:
    assert self_instruct.read(reply) == read


# Keeping


def reason(text: str, shown: Sequence[str] = (), *, finished: bool = True, **limits: Any) -> str | None:
    return PromptFilter(GenerationConfig(**limits), SEEDS, None).reason_against(text, shown, finished=finished)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "is empty"),
        ("- one of a list of things", "begins with a mark"),
        ("Write it down.", "has too few words"),
        (" ".join(["word"] * 121), "has too many words"),
        ("Describe what you see in this image.", "has a keyword"),
        ("Schreibe eine kurze Geschichte über eine Katze.", "is in another language"),
        (SEEDS[0].upper(), "is there already"),
        ("Explain to a child how a big boat is made now.", "is close to another"),
        ("Plan a walk through a town that has no streets.", None),
    ],
)
def test_each_reason_to_leave_a_prompt_out(text: str, expected: str | None) -> None:
    assert reason(text) == expected


def test_a_near_duplicate_is_left_out_however_far_rouge_may_go() -> None:
    near = f"{SEEDS[0].rstrip('.')}, please."
    assert reason(near, most_rouge=1.0, resemblance=0.5) == "is a near duplicate"


def test_what_was_cut_or_only_echoes_what_was_shown_is_left_out() -> None:
    new = "Plan a walk through a town that has no streets."
    assert reason(new, finished=False) == "is cut off"
    assert reason(new, [new.replace("walk", "run")]) == "echoes what was shown"
    assert reason("Imagine things.", least_words=2, keywords="") is None


@pytest.mark.parametrize(
    ("language", "known", "new"),
    [
        (
            "ru",
            "Напиши короткий рассказ о коте, который учится плавать.",
            "Объясни простыми словами, почему идёт дождь.",
        ),
        ("zh", "写一个关于学会游泳的猫的短篇故事。", "用简单的话解释天空为什么是蓝色的。"),
    ],
)
def test_prompts_in_other_scripts_are_held_against_each_other_too(language: str, known: str, new: str) -> None:
    cfg = GenerationConfig(language=language)
    assert PromptFilter(cfg, [known], None).reason_against(new, [], finished=True) is None
    assert PromptFilter(cfg, [new], None).reason_against(known, [f"{known}!"], finished=True) == "echoes what was shown"
    assert greatest_rouge_l(known, [new, known]) == 1.0


@pytest.mark.parametrize(
    ("text", "keyword"), [("请看图片回答这个问题。", "图片"), ("Write a class in C++ for me.", "c++")]
)
def test_a_keyword_is_found_in_any_script_and_with_any_signs(text: str, keyword: str) -> None:
    assert reason(text, keywords=keyword, language=None) == "has a keyword"


def test_a_word_that_holds_a_keyword_is_none() -> None:
    assert reason("Say what imagery does in a poem.", keywords="image") is None


def test_no_prompt_is_kept_twice() -> None:
    filters, new = PromptFilter(GenerationConfig(), SEEDS, None), "Plan a walk through a town that has no streets."
    assert filters.reason_against(new, [], finished=True) is None
    assert filters.reason_against(f"{new} ", [], finished=True) == "is there already"


def test_an_evolved_prompt_may_say_most_of_what_it_was_made_from_but_not_all() -> None:
    old = SEEDS[0]
    filters = PromptFilter(GenerationConfig(), SEEDS, evolve.WAY.echo)
    assert filters.reason_against(old, [old], finished=True) == "echoes what was shown"
    harder = f"{old} Use at most fifty words."
    assert PromptFilter(GenerationConfig(), [old], evolve.WAY.echo).reason_against(harder, [old], finished=True) is None
    assert PromptFilter(GenerationConfig(), [old], evolve.WAY.echo).reason_against(harder, [], finished=True)


TEXTS = st.lists(st.sampled_from(["a", "b", "c", "d", "e", "f"]), max_size=8).map(" ".join)


@given(TEXTS, st.lists(TEXTS, min_size=1, max_size=6))
def test_the_greatest_rouge_l_is_found_without_looking_at_all(text: str, others: list[str]) -> None:
    scorer = RougeScorer(["rougeL"], use_stemmer=False)
    assert greatest_rouge_l(text, others) == max(scorer.score(other, text)["rougeL"].fmeasure for other in others)


# Rounds


RATED = "Which planet is the largest of them all?"


def kept(store: Store[Any], proposals: list[str], wanted: int = 3, before: Artifact | None = None) -> Artifact:
    rows = [Proposal(text, [], True) for text in proposals]
    parents = {
        "seeds": artifact(store, "seeds", [Prompt(prompt_id(text), text, "") for text in SEEDS], Prompt),
        "proposals": artifact(store, f"proposals{len(rows)}", rows, Proposal),
        "evaluation_people": artifact(store, "ratings", [Rating("r", RATED, "Jupiter.", 5.0)], Rating),
    }
    generation = {name: getattr(GenerationConfig(kind="self_instruct"), name) for name in SETTINGS}
    return store.run(
        NEW_PROMPTS,
        NewPromptsIdentity(generation, LeaksIdentity(True, 13, 0.8), wanted),
        parents | ({"kept": before} if before else {}),
    )


def test_a_proposal_that_holds_what_a_policy_is_evaluated_on_is_left_out_and_counted(tmp_path: Path) -> None:
    store = Store(tmp_path, tools())
    made = kept(store, [f"Tell a child a story. {RATED} Say it in rhymes.", *MADE], wanted=2)
    assert [prompt.prompt for prompt in made.read(Prompt)] == MADE[:2]
    assert made.metrics["left_out"] == {"is evaluated on": 1}


def test_a_round_goes_on_where_the_one_before_it_stopped_and_stops_at_what_is_wanted(tmp_path: Path) -> None:
    store = Store(tmp_path, tools())
    first = kept(store, ["Plan a walk through a town that has no streets.", "Too short."])
    assert [prompt.prompt for prompt in first.read(Prompt)] == ["Plan a walk through a town that has no streets."]
    more = ["Plan a walk through a town that has no streets.", *MADE, "Describe the smell of rain to a robot."]
    second = kept(store, more, before=first)
    assert [prompt.prompt for prompt in second.read(Prompt)][1:] == MADE
    metrics = second.metrics
    assert (metrics["prompts"], metrics["wanted"], metrics["rounds"], metrics["looked_at"]) == (3, 3, 2, 5)
    assert metrics["left_out"] == {"has too few words": 1, "is there already": 1}
    assert metrics["examples_left_out"]["has too few words"] == ["Too short."]
    assert len(metrics["nearest_seed"]) == 3
    assert 0 < metrics["mean_nearest_seed"] < 0.7
