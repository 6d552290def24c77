"""Has a text come to the right answer? Stated or last, as numbers or as words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfreward.simulation.final_answer import final_answer, holds

HEADINGS = "#### Step 1: Add\n3 + 4 = 7\n#### 2. Double it\n7 * 2 = 14"
RIGHT = [
    ("14", HEADINGS),
    ("Paris", "#### Conclusion\nParis"),
    ("Paris", "It is near.\n#### Paris"),
    ("1,200", "So it is\n#### $1,200.00 dollars\nas 5 and 7 said"),
    ("42", "6 times 7 is 42."),
    ("42", "The answer is 42. There were 3 left before."),
    ("42", "**Answer:** $42.00 in 7 days"),
    ("42", "First I thought the answer is 40. No, the answer is 42"),
    ("42", "#### 42"),
    ("42", "The answer is 6 * 7 = 42. So 43 is too much."),
    ("42", "**Answer**: 42 apples in 7 days"),
    ("1,200", "She has 1200 marbles"),
    ("-3.5", "It falls to -3.50"),
    ("Paris", "It is a city in France.\nAnswer: paris."),
    ("Paris", "Let me think.\n**Paris**"),
    ("18", "The answer is:\n\n18"),
    ("18", "The final answer is:\n**18**"),
    ("18", "The answer is approx. 18"),
    ("18", "Answer: 18\n\nI hope the answer is helpful!"),
    ("18", "It comes to 18. I hope the answer is helpful!"),
    ("-5", "The answer is −5"),
    ("-5", "The answer is -$5"),
    ("18", "Of them, 10-18"),
    ("0.5", "It is .50"),
    ("B", "The answer is (B)."),
    ("(B)", "Answer: b"),
    ("6", "The answer is not 5 but 6."),
    ("[0, 1)", "Answer: [0, 1)"),
    ("[]", "Answer: []"),
    ("3", "The answer is 3 (of 5)"),
    ("2", "The answer is 2 hours (2 x 60 = 120 minutes)."),
    ("4", "The answer is 4 = 2 + 2."),
    ("16", "**Answer:** 16 = 2^4"),
    ("5", "The answer is (2 + 3) = 5"),
    ("5", "The answer is (5)."),
    ("42", "The answer is x = 42"),
]
WRONG = [
    ("2", HEADINGS),
    ("120", "The answer is 2 hours (2 x 60 = 120 minutes)."),
    ("42", "42 is too much, so it is 41."),
    ("42", "The answer is 41, not 42"),
    ("42", "142"),
    ("42", "no number at all"),
    ("42", ""),
    ("Paris", "Paris is a city.\nAnswer: Lyon"),
    ("Paris", ""),
    ("5", "The answer is −5"),
    ("-18", "Of them, 10-18"),
    ("42", "The answer isn't 42."),
    ("42", "The answer is not $42."),
    ("5", "The answer is 5/8."),
    ("5", "Answer: 5 * 8"),
    ("[0, 1)", "Answer: (0, 1]"),
    ("[]", "Answer: [1]"),
    ("", ""),
    ("", "Anything"),
]


@pytest.mark.parametrize(("answer", "text"), RIGHT, ids=[text[:30] for _, text in RIGHT])
def test_a_text_that_comes_to_the_answer(answer: str, text: str) -> None:
    assert holds(text, answer)


@pytest.mark.parametrize(("answer", "text"), WRONG, ids=[text[:30] or "empty" for _, text in WRONG])
def test_a_text_that_does_not(answer: str, text: str) -> None:
    assert not holds(text, answer)


def test_a_solution_s_answer_stands_after_its_last_mark_and_a_bare_answer_is_itself() -> None:
    assert final_answer("48/2 = <<48/2=24>>24\n#### 72") == "72"
    assert final_answer(" 72 ") == "72"


@given(st.integers(-(10**12), 10**12))
def test_an_integer_is_recognised_however_it_is_written(number: int) -> None:
    for written in (f"{number}", f"{number:,}", f"{number}.0"):
        assert holds(f"The answer is {written}.", str(number))
        assert not holds(f"The answer is {written}.", str(number + 1))


@given(st.text(), st.text(min_size=1))
def test_any_text_is_looked_at_without_an_error(text: str, answer: str) -> None:
    holds(text, answer)


@given(st.text(alphabet="ab[]() ,1", min_size=1))
def test_a_text_in_brackets_is_right_where_it_is_stated_as_it_is(answer: str) -> None:
    assert holds(f"Answer: {answer}", answer) or not answer.strip()
