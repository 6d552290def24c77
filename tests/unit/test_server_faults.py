"""A server that fails, is slow or talks nonsense: nothing is lost, nothing comes twice, and the end is one line."""

from __future__ import annotations

import socket
import threading
import time

import pytest

from selfreward.engines.base import Completion, SampleRequest
from selfreward.errors import ModelError, ServerError
from selfreward.explain import explain
from selfreward.model.chat import Chat
from tests.asking import ignore
from tests.faults import Script, serving
from tests.unit.server_engines import ALL, ASKED, DECODING, SLOW, answers, engine_at

# What can be tried again

PASSING = {
    "slow": "no reply in time",
    "trickles": "no reply in time",
    "500": r"status 500 .*fault 500",
    "503": "status 503",
    "408": "status 408",
    "409": "status 409",
    "429": "status 429",
    "garbage": "a reply without the answer .*proxy",
    "no json": "a reply that can't be read",
    "half a body": "no connection",
    "dies": "no connection",
    "no answers": "a reply without the answer",
    "fewer log-probabilities": "an answer without token_logprobs",
    "broken off": "an answer broken off",
}


@pytest.mark.parametrize("fault", PASSING)
def test_after_a_passing_fault_each_answer_is_there_once_and_is_what_it_would_have_been(
    script: Script, url: str, chat: Chat, fault: str
) -> None:
    script.faults = [fault]
    heard: list[tuple[float, int]] = []
    engine = engine_at(url, chat, concurrency=ALL, fault=fault)
    made = engine.sample(ASKED, DECODING, None, lambda u, t: heard.append((u, t)))
    assert made == answers(ASKED)
    assert set(script.asked.values()) == {2}
    assert len(heard) == ALL
    assert sum(units for units, _ in heard) == pytest.approx(len(ASKED))
    tokens = sum(len(request.prompt_ids) for request in ASKED) + sum(len(c.token_ids) for row in made for c in row)
    assert sum(tokens for _, tokens in heard) == tokens


def test_faults_of_all_kinds_one_after_the_other_lose_nothing(script: Script, url: str, chat: Chat) -> None:
    script.faults = [fault for fault in PASSING if fault not in (*SLOW, "429")]
    engine = engine_at(url, chat, retries=len(script.faults), concurrency=ALL, pause=0.001)
    assert engine.sample(ASKED, DECODING, None, ignore) == answers(ASKED)
    assert set(script.answered.values()) == {1}


@pytest.mark.parametrize(("fault", "seen"), PASSING.items(), ids=PASSING)
def test_where_a_fault_stays_the_error_names_the_server_what_was_seen_and_the_remedy(
    script: Script, url: str, chat: Chat, fault: str, seen: str
) -> None:
    script.faults = [fault] * 2
    with pytest.raises(
        ServerError, match=rf"^engine.base_url={url}: {seen}.*, at the last of 2 attempts; see that the server is well"
    ) as caught:
        engine_at(url, chat, retries=1, fault=fault).sample(ASKED[:1], DECODING, None, ignore)
    assert explain(caught.value) == str(caught.value)
    assert "\n" not in explain(caught.value)
    assert set(script.asked.values()) == {2}


def test_the_pause_that_a_server_asks_for_is_kept(script: Script, url: str, chat: Chat) -> None:
    script.faults = ["429"]
    engine_at(url, chat).sample(ASKED[:1], DECODING, None, ignore)
    assert script.times[1] - script.times[0] >= 0.3


def test_pauses_grow_from_attempt_to_attempt(script: Script, url: str, chat: Chat) -> None:
    script.faults = ["500"] * 4
    engine_at(url, chat, retries=4).sample(ASKED[:1], DECODING, None, ignore)
    pauses = [later - earlier for earlier, later in zip(script.times, script.times[1:], strict=False)]
    assert all(pause >= 0.02 * 2**i for i, pause in enumerate(pauses))


def test_a_server_that_goes_away_in_the_middle_and_comes_back_loses_nothing(chat: Chat) -> None:
    before, after = Script(faults=["dies"], seconds=0.05), Script()
    with serving(before) as url:
        engine = engine_at(url, chat, retries=8, concurrency=2)
        engine.score([[5]], [20], None, ignore)  # it is known by now
        port = int(url.rsplit(":", 1)[1].split("/")[0])
        made: list[list[list[Completion]]] = []
        thread = threading.Thread(target=lambda: made.append(engine.sample(ASKED, DECODING, None, ignore)))
        thread.start()
        deadline = time.monotonic() + 60
        while len(before.answered) < 4:
            assert thread.is_alive() and time.monotonic() < deadline
            time.sleep(0.001)
    time.sleep(0.1)  # nobody listens
    with serving(after, port):
        thread.join()
    assert made == [answers(ASKED)]
    assert after.answered


def test_where_nobody_listens_the_error_says_so(chat: Chat) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    with pytest.raises(ServerError, match=rf"^engine.base_url={url}: no connection \(.*\), at the last of 3 attempts"):
        engine_at(url, chat, retries=2).sample(ASKED, DECODING, None, ignore)


# What can't

REFUSED = {
    "400": r"status 400 \(.*fault 400.*\); check the address",
    "401": "status 401 .*; put the key into MY_KEY",
    "404": "status 404 .*; check the address, which ends in /v1, the name of the model",
}


@pytest.mark.parametrize(("fault", "message"), REFUSED.items(), ids=REFUSED)
def test_what_a_server_refuses_is_not_asked_again(
    script: Script, url: str, chat: Chat, fault: str, message: str
) -> None:
    script.faults = [fault] * 9
    with pytest.raises(ServerError, match=f"^engine.base_url={url}: {message}"):
        engine_at(url, chat, concurrency=1).sample(ASKED, DECODING, None, ignore)
    assert sum(script.asked.values()) == 1


@pytest.mark.parametrize(
    ("lacks", "message"),
    [("token_ids", "the server returns no token ids: take one"), ("end", "leaves the end token out of an answer's")],
)
def test_a_server_whose_answers_can_not_be_trained_on_is_refused(
    script: Script, url: str, chat: Chat, lacks: str, message: str
) -> None:
    script.features.remove(lacks)
    with pytest.raises(ServerError, match=message):
        engine_at(url, chat).sample(ASKED, DECODING, None, ignore)


def test_a_text_beyond_what_the_server_takes_is_refused_before_it_is_sent(script: Script, url: str, chat: Chat) -> None:
    with pytest.raises(
        ModelError, match=r"a sequence of 1001 tokens is beyond the server's 1000: lower sampling.*data\.max_ch"
    ):
        engine_at(url, chat).sample([SampleRequest([5] * 995, [1])], DECODING, None, ignore)
    assert not script.asked
