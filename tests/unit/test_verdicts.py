"""A score is read only where the judge states it, and no answer can write its own."""

from __future__ import annotations

import dataclasses
import math
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfreward import conversation
from selfreward.errors import VerdictError
from selfreward.judges import pairwise, rubric
from selfreward.judges.rubric import build_message, expected_score, parse
from selfreward.texts import fill
from tests.unit.making import candidate

# Verdicts that a judge writes


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        ("Score: 3", 3),
        ("score: 3", 3),
        ("SCORE : 3", 3),
        ("Score: 3.5", 3.5),
        ("Score: 0", 0),
        ("Score: 5", 5),
        ("Score: 4/5", 4),
        ("Score: 4 / 5.", 4),
        ("Score: 4 out of 5", 4),
        ("Score: <4>", 4),
        ("**Score:** 4", 4),
        ("**Score: 4**", 4),
        ("- Total score: 4", 4),
        ("It is on topic and clear.\nScore: 4", 4),
        ("Score: 4\n", 4),
        ("Score: 4  \n\n", 4),
        ("Score: 2\nOn reflection it is better than that.\nScore: 4", 4),
    ],
)
def test_the_last_line_that_states_a_score_is_the_verdict(reply: str, score: float) -> None:
    assert parse(reply) == score


@pytest.mark.parametrize(
    "reply",
    [
        "",
        ":",
        "Thought process:",
        "Score:",
        "Score: high",
        "Score: five",
        "5",
        "5/5",
        "I would give it a score of 4.",
        "The reply says Score: 5 but that earns nothing.",
        "Score: 4 and a half",
        "Score: 4/10",
        "Score: 3-4",
        "Scores: 3, 4",
        "Underscore: 4",
    ],
)
def test_a_reply_that_states_no_score_is_refused(reply: str) -> None:
    with pytest.raises(VerdictError, match="the reply states no score"):
        parse(reply)


@pytest.mark.parametrize("reply", ["Score: 6", "Score: 5.01", "Score: 10/5", "Score: 100", "Score: 3\nScore: 12"])
def test_a_score_above_the_highest_is_refused_and_never_cut_to_fit(reply: str) -> None:
    with pytest.raises(VerdictError, match="not between 0 and 5"):
        parse(reply)


@pytest.mark.parametrize("reply", ["Score: -1", "Score: -3.5", "Score: .5"])
def test_a_number_that_begins_with_a_sign_or_a_point_is_not_read_as_another_one(reply: str) -> None:
    with pytest.raises(VerdictError):
        parse(reply)


@given(st.text(), st.integers(0, 50))
def test_whatever_reasoning_comes_before_it_the_last_line_counts(reasoning: str, tenths: int) -> None:
    assert parse(f"{reasoning}\nScore: {tenths / 10:g}") == tenths / 10


pieces = st.sampled_from(["Score", "score", ":", " ", "\n", "5", "0", "9", ".", "-", "/", "out of", "**", "Total "])


@given(st.lists(pieces).map("".join))
def test_whatever_is_read_lies_on_the_scale(reply: str) -> None:
    with suppress(VerdictError):
        assert 0 <= parse(reply) <= rubric.HIGHEST


@given(st.text(alphabet=st.characters(blacklist_categories=("Nd", "Cs"))))
def test_a_reply_without_a_digit_never_has_a_score(reply: str) -> None:
    with pytest.raises(VerdictError):
        parse(reply)


# Scores read from the next-token distribution


def logs(probabilities: list[float]) -> list[float]:
    return [math.log(p) if p else -math.inf for p in probabilities]


@pytest.mark.parametrize(
    ("probabilities", "score", "mass"),
    [
        ([0, 0, 0, 1, 0, 0], 3, 1),
        ([0.5, 0, 0, 0, 0, 0.5], 2.5, 1),
        ([0, 0, 0, 0, 0.1, 0.3], 4.75, 0.4),
        ([0.01, 0, 0, 0, 0, 0], 0, 0.01),
    ],
)
def test_an_expected_score_is_the_mean_over_score_tokens_alone(
    probabilities: list[float], score: float, mass: float
) -> None:
    assert expected_score(logs(probabilities)) == pytest.approx((score, mass))


@given(st.lists(st.floats(-50, 0), min_size=6, max_size=6), st.floats(-20, 20))
def test_an_expected_score_lies_on_the_scale_and_does_not_depend_on_the_mass(row: list[float], shift: float) -> None:
    score, mass = expected_score(row)
    shifted, _ = expected_score([logprob + shift for logprob in row])
    assert score is not None
    assert 0 <= score <= rubric.HIGHEST
    assert 0 < mass <= 1
    assert shifted == pytest.approx(score)


@pytest.mark.parametrize("row", [[-math.inf] * 6, [-2000.0] * 6, [math.nan] * 6])
def test_where_no_score_token_has_probability_there_is_no_score(row: list[float]) -> None:
    assert expected_score(row) == (None, 0.0)


# What the judge is asked


def test_a_place_is_filled_in_one_pass_so_text_that_looks_like_a_place_stays_as_it_is() -> None:
    assert fill("a {x} b {y}", x="{y}", y="{x}") == "a {y} b {x}"


@given(text=st.text())
@pytest.mark.parametrize("mode", ["expected", "sampled"])
def test_prompt_and_candidate_stand_word_for_word_in_their_own_sections(mode: str, text: str) -> None:
    message = build_message(candidate(text=text), mode)
    asked = rubric.RUBRIC.replace("{ask}", rubric.ASK[mode].strip())
    before, after = asked.replace("{request}", "[Request]\nPrompt p?").split("{candidate}")
    assert message == f"{before}{text}{after}".strip()


def test_a_conversation_stands_before_the_request_that_ends_it() -> None:
    asked = conversation.join(["Name a colour.", "Red.", "Another."])
    shown = "[Conversation before]\nUser: Name a colour.\n\nAssistant: Red.\n\n[Request]\nAnother."
    rated = dataclasses.replace(candidate(text="Blue."), prompt=asked)
    assert f"\n\n{shown}\n\n[Reply]\nBlue." in build_message(rated, "expected")
    assert all(f"\n\n{shown}\n\n[Answer A]" in m for m in pairwise.build_messages(pairwise.Duel(asked, "A", "B")))


@pytest.mark.parametrize("text", ["{prompt}", "{candidate}", "{prompt} {candidate} {unknown} {} {0}", "\\1 \\g<0>"])
def test_a_candidate_that_holds_places_stays_literal(text: str) -> None:
    message = build_message(candidate(text=text), "expected")
    assert message.endswith(f"[Reply]\n{text}")
    assert message.count("Prompt p?") == 1


@pytest.mark.parametrize("text", [text for mode in rubric.TEXTS for text in rubric.TEXTS[mode]] + [*pairwise.TEXTS])
def test_a_judges_own_words_state_no_verdict_that_could_be_read_back(text: str) -> None:
    with pytest.raises(VerdictError):
        parse(text)


def test_a_verdict_that_was_cut_off_is_none_and_one_before_the_cut_stays() -> None:
    for verdict in ("Score: 4", "Score: 4.", "Score: 4/", "**Score:** 4 / "):  # 4.5, or 4 out of 10
        with pytest.raises(VerdictError, match="cut off in its verdict"):
            parse(f"It is clear.\n{verdict}", finished=False)
    for whole in ("Score: 4\nFor it is", "Score: 4/5", "**Score: 4**"):
        assert parse(whole, finished=False) == 4
