"""A conversation is one text, of which its first message and the request that ends it can be told."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfreward.conversation import first_message, join, last_request

TURN = st.text(st.sampled_from("ab:U\n "), min_size=1).map(str.strip).filter(bool)


@given(turns=st.lists(TURN, min_size=1, max_size=7).filter(lambda turns: len(turns) % 2 == 1))
def test_a_conversation_s_ends_are_its_turns(turns: list[str]) -> None:
    text = join(turns)
    assert first_message(text) == turns[0]
    before, request = last_request(text)
    assert request == turns[-1]
    assert (before == "") == (len(turns) == 1)
    assert text == (f"{before}\n\nUser: {request}" if before else request)


@pytest.mark.parametrize(
    "text",
    [
        "User: Who said this?",
        "Mend it.\n\nUser: Hi.\n\nAssistant: Hello.\n\nUser: Bye.",
        "User: Hi.\n\nUser: Bye.",
        "User: Hi.\n\nAssistant: Hello.",
    ],
)
def test_a_request_that_looks_a_little_like_one_is_a_request(text: str) -> None:
    assert last_request(text) == ("", text)
