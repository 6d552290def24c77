"""A server that fails, is slow or talks nonsense: nothing is lost, nothing comes twice, and the end is one line."""

from __future__ import annotations

import math
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from selfreward.config import EngineConfig, RunConfig
from selfreward.engines import ENGINES, Host
from selfreward.engines.base import Completion, Decoding, SampleRequest
from selfreward.engines.remote.client import Client
from selfreward.engines.server import ServerEngine
from selfreward.errors import ModelError, ServerError
from selfreward.explain import explain
from selfreward.model.adapters import Adapter
from selfreward.model.chat import Chat
from tests.asking import ignore
from tests.faults import END, SLOW_SECONDS, Script, expected_ids, serving

DECODING = Decoding(0.7, 0.9, 6)
ASKED = [SampleRequest([5, 6, i], [10 * i + k for k in range(1 + i % 3)]) for i in range(12)]
ALL = sum(len(request.seeds) for request in ASKED)


def answers(asked: list[SampleRequest], *, seeded: bool = True) -> list[list[Completion]]:
    """What a server that never fails says."""
    made: list[list[Completion]] = []
    for request in asked:
        rows = [expected_ids(request.prompt_ids, seed if seeded else None, 6) for seed in request.seeds]
        made.append([Completion(ids, [-id / 10 for id in ids], ids[-1] == END) for ids in rows])
    return made


@pytest.fixture(scope="module")
def chat(tiny_model: Path) -> Chat:
    return Chat(tiny_model)


def engine_at(
    url: str,
    chat: Chat,
    *,
    retries: int = 3,
    concurrency: int = 4,
    pause: float = 0.02,
    fault: str = "",
    **options: bool,
) -> ServerEngine:
    """An engine that waits long, for a busy machine is no fault; but not where `fault` is a slow answer."""
    client = Client(
        url,
        "key",
        name=f"engine.base_url={url}",
        key_hint="put the key into MY_KEY",
        concurrency=concurrency,
        retries=retries,
        timeout_seconds=SLOW_SECONDS / 2 if fault in SLOW else 60,
        pause=pause,
    )
    return ServerEngine(client, chat, model=None, seeded=options.pop("seeded", True), **options)


SLOW = ("slow", "trickles")


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
def url(script: Script) -> Iterator[str]:
    with serving(script) as address:
        yield address


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


# What is asked


def test_no_more_requests_are_under_way_at_once_than_allowed(script: Script, url: str, chat: Chat) -> None:
    script.seconds = 0.05
    engine_at(url, chat, concurrency=3).sample(ASKED, DECODING, None, ignore)
    assert 1 < script.busiest <= 3


def test_without_seeds_none_is_sent_and_as_many_answers_come(script: Script, url: str, chat: Chat) -> None:
    made = engine_at(url, chat, seeded=False).sample(ASKED, DECODING, None, ignore)
    assert made == answers(ASKED, seeded=False)
    assert not any("seed" in body for body in script.bodies)


def test_what_the_server_or_the_model_would_set_by_itself_is_said(script: Script, url: str, chat: Chat) -> None:
    """A model's own settings may hold a top_k or a penalty, and servers take them where a request is silent."""
    engine_at(url, chat).sample(ASKED[:1], DECODING, None, ignore)
    (body,) = script.bodies
    said = {"temperature": 0.7, "top_p": 0.9, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
    assert said.items() <= body.items()
    assert body["stop_token_ids"] == chat.end_ids


# Scores and log-probabilities


def test_scores_come_back_for_each_choice(url: str, chat: Chat) -> None:
    found = engine_at(url, chat).score([[5, 6], [7]], [20, 21], None, ignore)
    assert found == [[pytest.approx(-0.7), pytest.approx(-0.71)]] * 2


def test_where_only_the_likeliest_tokens_come_back_a_choice_that_is_not_among_them_has_no_probability(
    script: Script, url: str, chat: Chat
) -> None:
    script.features = (script.features - {"logprob_token_ids"}) | {"likeliest"}
    assert engine_at(url, chat).score([[5]], [20, 21], None, ignore) == [[-math.inf, pytest.approx(-0.71)]]


def test_where_no_choice_has_a_probability_the_error_names_the_other_mode(script: Script, url: str, chat: Chat) -> None:
    script.features.remove("logprob_token_ids")
    with pytest.raises(ServerError, match=rf"^engine.base_url={url}: .*judge\.mode=sampled"):
        engine_at(url, chat).score([[5]], [20, 21], None, ignore)
    assert sum(script.asked.values()) == 1


def test_log_probabilities_of_completions_are_cut_out_of_the_echo(url: str, chat: Chat) -> None:
    found = engine_at(url, chat).logprobs([[5, 6], [7]], [[8], [9, 10, 11]], None, ignore)
    assert found == [pytest.approx([-0.8]), pytest.approx([-0.9, -1.0, -1.1])]


def test_a_server_that_does_not_echo_is_refused(script: Script, url: str, chat: Chat) -> None:
    script.features.remove("echo")
    with pytest.raises(ServerError, match="does not echo"):
        engine_at(url, chat).logprobs([[5, 6]], [[8]], None, ignore)


def test_a_server_that_gives_no_log_probabilities_is_asked_once(script: Script, url: str, chat: Chat) -> None:
    script.faults = ["no log-probabilities"]
    with pytest.raises(ServerError, match="gives no log-probabilities of tokens: take one that does"):
        engine_at(url, chat).sample(ASKED[:1], DECODING, None, ignore)
    assert script.asked.total() == 1


# Adapters


@pytest.fixture
def adapter(tmp_path: Path) -> Adapter:
    return Adapter("0123456789ab", tmp_path)


def test_an_adapter_is_loaded_once_under_its_own_name(script: Script, url: str, chat: Chat, adapter: Adapter) -> None:
    engine = engine_at(url, chat)
    for _ in range(2):
        engine.score([[5]], [20], adapter, ignore)
    engine.score([[5]], [20], None, ignore)
    assert script.adapters == {adapter.name: str(adapter.folder)}
    assert [body["model"] for body in script.bodies] == [adapter.name, adapter.name, "base"]


def test_an_adapter_that_an_earlier_run_has_loaded_is_used(
    script: Script, url: str, chat: Chat, adapter: Adapter
) -> None:
    script.adapters[adapter.name] = str(adapter.folder)
    engine_at(url, chat).score([[5]], [20], adapter, ignore)
    assert script.loads == 0


def test_an_adapter_of_the_same_name_from_another_folder_is_refused(
    script: Script, url: str, chat: Chat, adapter: Adapter
) -> None:
    script.adapters[adapter.name] = "/elsewhere"
    with pytest.raises(ServerError, match=f"has {adapter.name} from /elsewhere, not from .*: start it anew"):
        engine_at(url, chat).score([[5]], [20], adapter, ignore)


def test_a_server_that_can_not_load_adapters_is_refused_with_what_it_needs(
    script: Script, url: str, chat: Chat, adapter: Adapter
) -> None:
    script.features.remove("lora")
    with pytest.raises(ServerError, match=r"status 404 .*--enable-lora.*VLLM_ALLOW_RUNTIME_LORA_UPDATING=True"):
        engine_at(url, chat).score([[5]], [20], adapter, ignore)


def test_an_outside_model_takes_no_adapter(url: str, chat: Chat, adapter: Adapter) -> None:
    with pytest.raises(ModelError, match="trained on another model than the server's"):
        engine_at(url, chat, outside=True).score([[5]], [20], adapter, ignore)


# From the settings


def test_the_key_comes_from_the_variable_that_the_settings_name(
    script: Script, url: str, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = EngineConfig(kind="server", base_url=url, key_variable="A_KEY")
    host = Host(RunConfig(), tiny_model, Path(), pytest.fail, pytest.fail, print)
    ENGINES["server"](host, "engine", settings).score([[5]], [20], None, ignore)
    monkeypatch.setenv("A_KEY", "secret")
    ENGINES["server"](host, "engine", settings).score([[5]], [20], None, ignore)
    assert script.keys == {"Bearer none", "Bearer secret"}


def test_a_refusal_names_the_settings_of_the_engine_that_was_refused(
    script: Script, url: str, tiny_model: Path
) -> None:
    script.faults = ["401"] * 9
    settings = EngineConfig(kind="server", base_url=url, key_variable="A_KEY")
    host = Host(RunConfig(), tiny_model, Path(), pytest.fail, pytest.fail, print)
    named = rf"^engines\.outside\.base_url={url}: status 401 .*variable A_KEY \(engines\.outside\.key_variable\)"
    with pytest.raises(ServerError, match=named):
        ENGINES["server"](host, "engines.outside", settings).score([[5]], [20], None, ignore)
