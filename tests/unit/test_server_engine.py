"""What a server is asked for answers, scores and log-probabilities, and how it comes by adapters and its key."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from selfreward.config import EngineConfig, RunConfig
from selfreward.engines import ENGINES, Host
from selfreward.errors import ModelError, ServerError
from selfreward.model.adapters import Adapter
from selfreward.model.chat import Chat
from tests.asking import ignore
from tests.faults import Script
from tests.unit.server_engines import ASKED, DECODING, answers, engine_at

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
    said |= {"presence_penalty": 0.0, "frequency_penalty": 0.0}
    assert said.items() <= body.items()
    assert body["stop_token_ids"] == chat.end_ids


# Scores and log-probabilities


def test_scores_come_back_for_each_choice(url: str, chat: Chat) -> None:
    found = engine_at(url, chat).score([[5, 6], [7]], [20, 21], None, ignore)
    assert found == [[pytest.approx(-0.7), pytest.approx(-0.71)]] * 2


def test_where_only_the_likeliest_tokens_come_back_a_choice_that_is_not_among_them_has_no_probability(
    script: Script, url: str, chat: Chat
) -> None:
    script.features = (script.features - {"logprob_token_ids"}) | {"likeliest", "far ones too"}
    assert engine_at(url, chat).score([[5]], [20, 21], None, ignore) == [[-math.inf, pytest.approx(-0.71)]]


def test_a_choice_that_is_missing_among_likely_tokens_is_not_taken_for_impossible(
    script: Script, url: str, chat: Chat
) -> None:
    script.features = (script.features - {"logprob_token_ids"}) | {"likeliest"}
    with pytest.raises(ServerError, match=r"of 1 of the 2 tokens asked for, and the others may be as likely: take one"):
        engine_at(url, chat).score([[5]], [20, 21], None, ignore)


def test_where_tokens_are_called_by_their_texts_one_that_others_share_is_not_taken(
    script: Script, url: str, chat: Chat
) -> None:
    script.features |= {"by text"}
    letters = [chat.tokenizer.convert_tokens_to_ids(letter) for letter in "xy"]
    script.spell = chat.tokenizer.decode
    assert engine_at(url, chat).score([[5]], letters, None, ignore)[0] == [
        pytest.approx(-0.5 - id / 100) for id in letters
    ]
    byte, other = (chat.tokenizer.convert_tokens_to_ids(piece) for piece in "\u00e3\u00e4")  # halves of a letter
    with pytest.raises(ServerError, match="of 0 of the 2 tokens asked for"):
        engine_at(url, chat).score([[5]], [byte, other], None, ignore)


def test_a_tokenizer_that_is_not_the_server_s_is_found_by_what_the_server_writes(
    script: Script, url: str, chat: Chat
) -> None:
    script.spell = chat.decode
    engine_at(url, chat).check_tokenizer("engines.outside.tokenizer=x")
    script.spell = lambda ids: "Red, green, blue"
    with pytest.raises(ServerError, match=r"writes 'Red, green, blue' where engines\.outside\.tokenizer=x reads '"):
        engine_at(url, chat).check_tokenizer("engines.outside.tokenizer=x")


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


def host_of(model: Path, say: Callable[[Any], None] = print, longest: int = 1000) -> Host:
    plan: Any = SimpleNamespace(longest_served=lambda: longest)
    return Host(RunConfig(), model, Path(), pytest.fail, lambda: plan, say)


def test_the_key_comes_from_the_variable_that_the_settings_name(
    script: Script, url: str, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = EngineConfig(kind="server", base_url=url, key_variable="A_KEY")
    host = host_of(tiny_model)
    ENGINES["server"](host, "engine", settings).score([[5]], [20], None, ignore)
    monkeypatch.setenv("A_KEY", "secret")
    ENGINES["server"](host, "engine", settings).score([[5]], [20], None, ignore)
    assert script.keys == {"Bearer none", "Bearer secret"}


def test_a_refusal_names_the_settings_of_the_engine_that_was_refused(
    script: Script, url: str, tiny_model: Path
) -> None:
    script.faults = ["401"] * 9
    settings = EngineConfig(kind="server", base_url=url, key_variable="A_KEY")
    host = host_of(tiny_model)
    named = rf"^engines\.outside\.base_url={url}: status 401 .*variable A_KEY \(engines\.outside\.key_variable\)"
    with pytest.raises(ServerError, match=named):
        ENGINES["server"](host, "engines.outside", settings).score([[5]], [20], None, ignore)


@pytest.mark.parametrize(
    ("longest", "said"), [(1000, []), (1001, ["takes 1000 tokens, and texts may have up to 1001"])]
)
def test_a_server_that_takes_shorter_texts_than_there_may_be_is_pointed_out(
    url: str, tiny_model: Path, longest: int, said: list[str]
) -> None:
    heard: list[str] = []
    settings = EngineConfig(kind="server", base_url=url)
    ENGINES["server"](host_of(tiny_model, heard.append, longest), "engine", settings)
    assert len(heard) == len(said) and all(part in line for part, line in zip(said, heard, strict=True))
