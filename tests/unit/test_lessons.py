"""What a judge is taught: people's scores as score tokens, both neighbours of a score between two, and in words."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfreward.judges import pairwise, rubric
from selfreward.judges.lessons import balanced, duel_lessons, score_lesson, written_lesson
from selfreward.model.chat import Chat
from selfreward.records import Rating


def rating(score: float, number: int = 0) -> Rating:
    return Rating(f"p{number}", "Name a colour.", f"Red {number}.", score)


@pytest.mark.parametrize(("score", "below", "share_above"), [(0, 0, 0.0), (3.25, 3, 0.25), (4.5, 4, 0.5), (5, 4, 1.0)])
def test_a_score_is_the_two_whole_ones_about_it_each_by_how_near_it_is(
    chat: Chat, score: float, below: int, share_above: float
) -> None:
    lesson = score_lesson(rating(score), chat)
    ids = chat.choices(rubric.OPENING, [str(value) for value in range(6)]).choice_ids
    assert (lesson.completion_ids, lesson.other_id) == ([ids[below]], ids[below + 1])
    assert lesson.other_weight == pytest.approx(share_above)


def test_the_judge_is_asked_as_it_is_in_the_loop(chat: Chat) -> None:
    lesson = score_lesson(rating(2), chat)
    assert chat.decode(lesson.prompt_ids).endswith("Score:")
    assert "Name a colour." in chat.decode(lesson.prompt_ids)


def test_a_written_verdict_states_the_rounded_score_where_the_parser_reads_it(chat: Chat) -> None:
    lesson = written_lesson(rating(3.6), chat)
    assert rubric.parse(chat.decode(lesson.completion_ids)) == 4
    assert lesson.completion_ids[-1] == chat.tokenizer.eos_token_id
    assert lesson.other_weight == 0


@given(st.lists(st.integers(0, 5), min_size=1, max_size=60), st.integers(0, 3))
def test_no_score_is_taught_more_often_than_another_that_there_is_enough_of(scores: list[int], seed: int) -> None:
    ratings = [rating(score, number) for number, score in enumerate(scores)]
    chosen = Counter(one.score for one in balanced(ratings, 12, seed))
    there = Counter(map(float, scores))
    assert chosen.total() <= 12
    for score, count in chosen.items():
        assert count == there[score] or count >= max(chosen.values()) - 1


def test_another_seed_teaches_in_another_order() -> None:
    ratings = [rating(number % 6, number) for number in range(60)]
    assert balanced(ratings, 30, 0) != balanced(ratings, 30, 1)
    assert balanced(ratings, 30, 0) == balanced(ratings, 30, 0)


def test_of_two_answers_the_better_one_is_named_in_both_orders(chat: Chat) -> None:
    good, bad = Rating("p", "Name a colour.", "Red.", 5.0), Rating("p", "Name a colour.", "Stone.", 1.0)
    lessons = duel_lessons([good, bad, Rating("q", "Alone?", "Yes.", 3.0)], chat, 10, 0)
    token_a, token_b = chat.choices(pairwise.OPENING, ["A", "B"]).choice_ids
    shown = {
        chat.decode(lesson.prompt_ids).index("Red.") < chat.decode(lesson.prompt_ids).index("Stone."): lesson
        for lesson in lessons
    }
    assert (shown[True].completion_ids, shown[False].completion_ids) == ([token_a], [token_b])
    assert duel_lessons([good, Rating("p", "Name a colour.", "Blue.", 5.0)], chat, 10, 0) == []


def test_each_prompt_has_its_first_duel_before_any_has_its_second(chat: Chat) -> None:
    ratings = [Rating(f"p{p}", f"Question {p}?", f"Answer {p} {a}.", float(a)) for p in range(3) for a in range(3)]
    lessons = duel_lessons(ratings, chat, 6, 0)
    assert len(lessons) == 6
    assert {p for p in range(3) for lesson in lessons if f"Question {p}?" in chat.decode(lesson.prompt_ids)} == {
        0,
        1,
        2,
    }
