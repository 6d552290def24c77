"""Constraints: for each kind a text that keeps it and one that doesn't; requests that never contradict themselves."""

from __future__ import annotations

from itertools import combinations
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfreward.simulation.checks import Check, dump, load, scores
from selfreward.simulation.conflicts import are_compatible
from selfreward.simulation.constraints import KINDS
from selfreward.simulation.requests import draw

CASES: list[tuple[str, dict[str, Any], str, str]] = [
    ("all_lowercase", {}, "a quiet day.", "A quiet day."),
    ("all_uppercase", {}, "A QUIET DAY.", "A Quiet Day."),
    ("shouted_words", {"count": 2}, "It was VERY, very LATE.", "I saw A LOT."[:8]),
    ("words_at_most", {"count": 3}, "It isn't far.", "It is not far."),
    ("words_at_least", {"count": 4}, "It is not far.", "It isn't far."),
    ("words_between", {"least": 2, "most": 3}, "One two three.", "One two three four."),
    ("sentences_exactly", {"count": 2}, 'He said "No." Then he left!', "He left."),
    ("paragraphs_exactly", {"count": 2}, "One.\n\nTwo.", "One.\nTwo."),
    ("lines_exactly", {"count": 2}, "One.\n\nTwo.\n", "One. Two."),
    ("short_sentences", {"count": 3}, "It rains. It pours again.", "It rains and pours again."),
    ("includes_word", {"text": "river"}, "The River bends.", "The rivers bend."),
    ("excludes_word", {"text": "the"}, "Then other things.", "In the end."),
    ("repeats_word", {"text": "river", "count": 2}, "River by river.", "A river."),
    ("words_in_order", {"first": "river", "second": "garden"}, "A river, a garden.", "A garden, a river."),
    ("bullets_exactly", {"count": 2}, "So:\n- one\n- two", "- one\n- two\n- three"),
    ("numbered_list", {"count": 2}, "1. one\n2. two", "1. one\n3. two"),
    ("json_object", {"keys": ["title", "topic"]}, '{"title": 1, "topic": 2}', 'So: {"title": 1, "topic": 2}'),
    ("json_object", {"keys": ["title", "topic"]}, '{"title": [[]], "topic": 2}', "[" * 100_000),
    ("sentences_exactly", {"count": 2}, "**It rains.** It pours.", "It rains and pours."),
    ("sentences_exactly", {"count": 2}, "“It rains.” It pours.", "It rains, it pours."),
    ("sentences_exactly", {"count": 1}, "# Rain\nDr. Smith came at 5 p.m. today.", "# Rain\nHe came. He left."),
    ("sentences_exactly", {"count": 2}, "1. It rains.\n2. It pours.", "1. It rains."),
    ("bullets_exactly", {"count": 1}, "So:\n- one", "So:\n* one"),
    ("in_quotation_marks", {}, "“It rains.”", '"Hi," she said, "bye."'),
    ("ends_with", {"text": "The end."}, "“It rains. The end.”", "“The end” it was."),
    ("numbers_in_words", {"count": 2}, "Fifteen of twenty-five came.", "One of twenty-five came."),
    ("numbers_in_words", {"count": 1}, "Two hundred and one days.", "No one came."),
    ("includes_number", {"count": 12}, "It is 12, or so.", "It is 12.5 or 1,012 or 12,000."),
    ("heading", {}, "# Rain\nIt falls.", "Rain\n# It falls."),
    ("bold_phrase", {}, "It is **very** wet.", "It is ** very wet."),
    ("in_quotation_marks", {}, '"It rains."', '"It" rains.'),
    ("alphabetical_lines", {}, "apple\nBread\ncream", "bread\napple\ncream"),
    ("starts_with", {"text": "Well,"}, " Well, it rains.", "It rains. Well, yes."),
    ("ends_with", {"text": "The end."}, "It rains. The end.", "The end. It rains."),
    ("ends_with_question", {}, 'Does it "rain?"', "Does it rain? Yes."),
    ("postscript", {}, "It rains.\nP.S. Still.", "P.S. Still.\nIt rains."),
    ("without_letter", {"text": "z"}, "It rains.", "It drizZles."),
    ("without_commas", {}, "It rains; it pours.", "It rains, it pours."),
    ("with_exclamation", {}, "Rain!", "Rain."),
    ("no_digits", {}, "Two days.", "2 days."),
    ("numbers_in_words", {"count": 2}, "Two or three days.", "Two or 3 days."),
    ("includes_number", {"count": 12}, "12 days.", "112 days."),
    # What a person would count
    ("words_at_most", {"count": 4}, "It cost 1,000.50 dollars.", "It cost 1,000 and fifty."),
    ("words_in_order", {"first": "river", "second": "garden"}, "A garden by the river, a garden.", "Gardens, a river."),
    ("numbers_in_words", {"count": 2}, "It takes between two and three days.", "It takes two hundred and three days."),
    ("numbers_in_words", {"count": 3}, "Two, three and four came.", "Two or thirty-four came."),
    ("numbers_in_words", {"count": 2}, "Two three-year-olds.", "Two thousand three hundred and one."),
    ("numbers_in_words", {"count": 1}, "A hundred and one.", "Someone, or one alone."),
    ("sentences_exactly", {"count": 1}, "He waited... then left.", "He waited... Then he left."),
    ("sentences_exactly", {"count": 1}, "The U.S. team won.", "The team won. It rained."),
    ("sentences_exactly", {"count": 2}, "He is in the U.S. She won.", "The U.S. team won."),
    ("sentences_exactly", {"count": 1}, "Bring fruit, bread, etc. and enjoy it.", "Bring fruit, etc. Enjoy it."),
    ("sentences_exactly", {"count": 1}, "Prof. Smith met J. K. Rowling.", "He met her. She left."),
    ("sentences_exactly", {"count": 1}, "dr. smith came.", "smith came. he left."),
    ("sentences_exactly", {"count": 2}, "He came at 5 p.m. Then he left.", "He came at 5 p.m. today."),
    ("sentences_exactly", {"count": 2}, "“It rains…” It pours.", "“It rains…” it seems."),
    ("sentences_exactly", {"count": 1}, "## Rain\nHe came.", "## Rain"),
    ("short_sentences", {"count": 3}, "# A day of much rain\nIt pours.", "# A day of much rain"),
    ("shouted_words", {"count": 1}, "I'M here.", "I am HERE."[:5]),
    ("shouted_words", {"count": 2}, "A WELL-KNOWN CASE.", "A WELL-KNOWN case."),
    ("json_object", {"keys": ["title", "topic"]}, '{"title": null, "topic": 2}', '{"title": NaN, "topic": 2}'),
    ("bold_phrase", {}, "**2** and 3", "2 ** 3 ** 4"),
    ("bullets_exactly", {"count": 2}, "- a\n- b", "- a\n- b\n* c"),
    ("in_quotation_marks", {}, '"a"', '" "'),
    ("postscript", {}, "It rains.\n\nP.S. Still.", "P.S. Still."),
    ("alphabetical_lines", {}, "1. Apple\n2. Mango\n3. Zebra", "1. Zebra\n2. Apple\n3. Mango"),
    ("alphabetical_lines", {}, "Apple\nÉclair\nZebra", "Apple\nZebra\nÉclair"),
    ("numbered_list", {"count": 1}, "1. one", "9" * 5000 + ". one"),
    ("sentences_exactly", {"count": 1}, '"It rains!" he said.', '"It rains!" He left.'),
    ("sentences_exactly", {"count": 2}, "it rains! it pours.", '"It rains!" it seems.'),
    ("short_sentences", {"count": 3}, '"It rains!" She left.', '"It rains!" she said.'),
    ("paragraphs_exactly", {"count": 2}, "# Rain\n\nIt falls.\n\n---\n\nIt stops.", "# Rain\n\nIt falls."),
    ("includes_word", {"text": "teacher"}, "It is the teacher's desk.", "The teachers left."),
    ("excludes_word", {"text": "that"}, "It isn't these.", "That's all."),
    ("excludes_word", {"text": "is"}, "It isn't far.", "It is far."),
    ("repeats_word", {"text": "river", "count": 2}, "The river's end is a river.", "The river's end."),
    ("words_in_order", {"first": "river", "second": "garden"}, "A river's garden.", "A garden's river."),
]


def test_there_are_at_least_25_kinds_and_each_has_its_case() -> None:
    assert len(KINDS) >= 25
    assert sorted(KINDS) == sorted({kind for kind, *_ in CASES})


@pytest.mark.parametrize(
    ("kind", "parameters", "kept", "broken"), CASES, ids=[f"{case[0]}: {case[2][:20]}" for case in CASES]
)
def test_a_kind_tells_a_text_that_keeps_it_from_one_that_does_not(
    kind: str, parameters: dict[str, Any], kept: str, broken: str
) -> None:
    assert KINDS[kind].holds(kept, parameters)
    assert not KINDS[kind].holds(broken, parameters)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "excludes_word"])
@pytest.mark.parametrize("text", ["", " \n ", "..."])
def test_an_empty_answer_keeps_nothing(kind: str, text: str) -> None:
    parameters = KINDS[kind].draw(Random(0))
    assert not KINDS[kind].holds(text, parameters)


@given(st.integers(0, 2**32), st.integers(1, 5))
def test_a_request_says_each_of_its_checks_and_none_that_could_contradict_another(seed: int, most: int) -> None:
    text, checks = draw(Random(seed), KINDS, most)
    assert 1 <= len(checks) <= most
    assert len({KINDS[check.kind].group for check in checks}) == len(checks)
    assert all(are_compatible(one, other) for one, other in combinations(checks, 2))
    assert all(KINDS[check.kind].say(check.parameters) in text for check in checks)


@pytest.mark.parametrize(
    ("one", "other", "can"),
    [
        (Check("all_lowercase", {}), Check("starts_with", {"text": "Well,"}), False),
        (Check("json_object", {"keys": ["title", "topic"]}), Check("heading", {}), False),
        (Check("without_commas", {}), Check("starts_with", {"text": "Well,"}), False),
        (Check("without_commas", {}), Check("starts_with", {"text": "Certainly!"}), True),
        (Check("excludes_word", {"text": "the"}), Check("ends_with", {"text": "The end."}), False),
        (Check("without_letter", {"text": "k"}), Check("includes_word", {"text": "market"}), False),
        (Check("without_letter", {"text": "z"}), Check("repeats_word", {"text": "market", "count": 2}), True),
        (Check("without_letter", {"text": "x"}), Check("json_object", {"keys": ["example", "topic"]}), False),
        (Check("words_at_most", {"count": 20}), Check("words_at_least", {"count": 30}), False),
        (Check("heading", {}), Check("lines_exactly", {"count": 2}), False),
        (Check("heading", {}), Check("paragraphs_exactly", {"count": 2}), True),
        (Check("postscript", {}), Check("paragraphs_exactly", {"count": 2}), False),
    ],
    ids=lambda value: value.kind if isinstance(value, Check) else str(value),
)
def test_what_no_answer_could_keep_together_is_known(one: Check, other: Check, can: bool) -> None:
    assert are_compatible(one, other) == are_compatible(other, one) == can


@given(st.integers(0, 2**32))
def test_sentences_have_room_for_the_words_that_are_asked_for(seed: int) -> None:
    kinds = ["sentences_exactly", "short_sentences", "words_at_least", "words_between"]
    _, checks = draw(Random(seed), kinds, 3)
    of = {check.kind: check.parameters for check in checks}
    least = of.get("words_at_least", {}).get("count", 0) or of.get("words_between", {}).get("least", 0)
    if "sentences_exactly" in of and "short_sentences" in of:
        assert of["sentences_exactly"]["count"] * of["short_sentences"]["count"] >= least


@given(st.integers(0, 2**32))
def test_checks_come_back_from_a_record_as_they_were(seed: int) -> None:
    _, checks = draw(Random(seed), KINDS, 3)
    assert load(dump(checks)) == checks


@given(st.text())
def test_any_text_is_checked_without_an_error(text: str) -> None:
    checks = [Check(kind, KINDS[kind].draw(Random(0))) for kind in KINDS]
    assert len(scores(text, checks)) == len(KINDS)
