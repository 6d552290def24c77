"""How vLLM is started: by which settings, with how much memory, and never beside the model in this process."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from selfreward.cap import GIB
from selfreward.config import EngineConfig, RunConfig
from selfreward.engines import ENGINES, Host
from selfreward.engines.vllm import Serving, command, environment, lora_rank
from selfreward.errors import ConfigError, ServerError
from selfreward.kinds import check_settings
from selfreward.memory.costs import SERVER_GIB
from selfreward.memory.plan import Plan
from selfreward.memory.table import plan_table
from selfreward.model.chat import Chat
from selfreward.stages.tools import Tools
from tests.loop.helpers import make_store
from tests.settings import override
from tests.unit.planning import LLAMA_8B, default, short, tiny

SERVING = Serving(Path("/model"), "bfloat16", rank=16, longest=1000, cache_bytes=1 << 30, requests=64, gpu_share=0.8)


# The command line


def option(arguments: list[str], name: str) -> str:
    return arguments[arguments.index(f"--{name}") + 1]


def test_the_command_holds_what_the_run_decides() -> None:
    arguments = command("/env/bin/python", SERVING, 1234)
    assert arguments[:3] == ["/env/bin/python", "-m", "vllm.entrypoints.openai.api_server"]
    wanted = {"model": "/model", "host": "127.0.0.1", "port": "1234", "dtype": "bfloat16", "max-model-len": "1000"}
    wanted |= {"kv-cache-memory-bytes": str(1 << 30), "max-lora-rank": "16", "generation-config": "vllm"}
    assert {name: option(arguments, name) for name in wanted} == wanted
    assert {"--enable-lora", "--enable-prefix-caching"} <= set(arguments)


def test_on_a_cpu_no_prompt_is_computed_in_parts_for_then_a_seed_would_end_the_server() -> None:
    on_cpu = replace(SERVING, dtype="float32", longest=9000, gpu_share=None)
    arguments = command("python", on_cpu, 1)
    assert "--no-enable-chunked-prefill" in arguments
    assert int(option(arguments, "max-num-batched-tokens")) >= on_cpu.longest
    assert "--no-enable-chunked-prefill" not in command("python", SERVING, 1)


def test_a_gpu_is_taken_as_far_as_the_cap_allows_and_no_room_is_made_for_more_requests_than_come() -> None:
    arguments = command("python", SERVING, 1)
    assert option(arguments, "gpu-memory-utilization") == "0.8"
    assert option(arguments, "max-num-seqs") == "64"
    assert "--max-num-seqs" not in command("python", replace(SERVING, gpu_share=None), 1)


def test_the_key_is_not_on_the_command_line() -> None:
    assert environment("python", "secret")["VLLM_API_KEY"] == "secret"
    assert not any("key" in argument for argument in command("python", SERVING, 1) if argument.startswith("--api"))


@pytest.mark.parametrize(("rank", "allowed"), [(1, 1), (2, 8), (8, 8), (16, 16), (17, 32), (512, 512)])
def test_the_rank_is_the_least_that_vllm_allows_and_that_is_enough(rank: int, allowed: int) -> None:
    assert lora_rank(rank) == allowed


def test_a_rank_beyond_vllm_s_largest_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^train\.lora\.r=513: vLLM takes adapters of rank 512 at most"):
        lora_rank(513)


# Settings that don't go together

ALL_RIGHT: dict[str, dict[str, Any]] = {
    "hf": {},
    "server": {"base_url": "http://host/v1"},
    "vllm": {"python": "python"},
}


@pytest.mark.parametrize("kind", ENGINES)
def test_each_kind_can_be_chosen(kind: str) -> None:
    cfg = default()
    cfg.engine = EngineConfig(kind=kind, **ALL_RIGHT[kind])
    check_settings(cfg)


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("server", {"base_url": None}, "engine.base_url=null: name the server's address"),
        ("vllm", {"python": None}, "engine.python=null: name the interpreter"),
        ("server", {"merge_adapter": True}, "engine.merge_adapter=true: server keeps adapters beside the weights; set"),
        ("vllm", {"merge_adapter": True}, "engine.merge_adapter=true: vllm keeps adapters beside the weights; set"),
        ("hf", {"seeded": False}, "engine.seeded=false: hf takes a seed"),
        ("hf", {"base_url": "http://host/v1"}, "engine.base_url=http://host/v1: hf takes none; set engine.kind=server"),
        ("vllm", {"model": "theirs"}, "engine.model=theirs: vllm takes none; set engine.kind=server, or leave it out"),
        ("hf", {"python": "python"}, "engine.python=python: hf takes none; set engine.kind=vllm, or leave it out"),
        ("server", {"concurrency": 0}, "engine.concurrency=0: use a number of at least 1"),
        ("server", {"retries": -1}, "engine.retries=-1: use a number of at least 0"),
        ("server", {"timeout_seconds": 0}, "engine.timeout_seconds=0: use a number above 0"),
        ("vllm", {"start_seconds": 0}, "engine.start_seconds=0: use a number above 0"),
    ],
)
def test_a_setting_that_the_engine_can_not_use_is_refused(kind: str, changes: dict[str, Any], message: str) -> None:
    cfg = default(train__reference="policy_0")
    cfg.engine = EngineConfig(kind=kind, **ALL_RIGHT[kind] | changes)
    with pytest.raises(ConfigError) as caught:
        check_settings(cfg)
    assert str(caught.value).startswith(message)


def test_a_quantised_base_is_not_what_vllm_would_run() -> None:
    cfg = default(train__quantization="nf4")
    cfg.engine = EngineConfig(kind="vllm", python="python")
    with pytest.raises(ConfigError, match=r"train\.quantization=nf4: the server would run the model without it"):
        check_settings(cfg)


def test_a_quantised_base_is_never_merged_for_it_could_not_be_put_back() -> None:
    cfg = default(train__quantization="nf4", train__reference="policy_0", engine__merge_adapter=True)
    with pytest.raises(ConfigError, match=r"train\.quantization=nf4: quantised weights can't .*merge_adapter=false"):
        check_settings(cfg)


def test_an_interpreter_that_is_not_there_is_named_before_anything_starts(tiny_model: Path) -> None:
    cfg = RunConfig()
    host = Host(cfg, tiny_model, Path(), pytest.fail, pytest.fail, print)
    with pytest.raises(ConfigError, match=r"^engine\.python=/nowhere: there is no such program"):
        ENGINES["vllm"](host, "engine", EngineConfig(kind="vllm", python="/nowhere"))


def test_the_server_writes_into_the_folder_of_its_run(tiny_model: Path, tmp_path: Path) -> None:
    """Not into output_dir, which the points of a sweep have in common. This one can't start: there is no vLLM here."""
    cfg = short(engine__kind="vllm", output_dir=str(tmp_path / "common"))
    host = Host(cfg, tiny_model, tmp_path, pytest.fail, lambda: Plan(tiny(), cfg, "cpu"), print)
    engine = ENGINES["vllm"](host, "engine", EngineConfig(kind="vllm", python=sys.executable))
    with pytest.raises(ServerError):
        engine.score([[1]], [2], None, lambda *_: None)
    assert "No module named 'vllm'" in (tmp_path / "vllm.log").read_text()


# Memory


def served(**changes: Any) -> Plan:
    cfg = default(engine__kind="vllm", memory__cap_gb=40.0)
    for key, value in changes.items():
        override(cfg, key.replace("__", "."), value)
    return Plan(LLAMA_8B, cfg, "cuda")


def test_the_cache_has_room_for_all_requests_at_once_and_no_more() -> None:
    plan = served()
    one = plan.served_cache(1)
    blocks = math.ceil(plan.longest_served() / 128) + 1  # vLLM keeps one for itself
    assert one == blocks * 128 * 2 * 8 * 128 * 32 * 2
    assert plan.served_cache(10) == 10 * one


def test_where_that_is_too_much_the_cache_takes_what_weights_and_server_leave_of_the_cap() -> None:
    plan = served(memory__cap_gb=24.0)
    others = sum(plan.costs.serving(1000).values())
    assert others > plan.costs.fixed["weights"] + SERVER_GIB * GIB
    assert plan.served_cache(1000) == 24 * GIB - others


def test_a_server_without_room_for_one_text_is_refused_with_the_cap_that_would_do() -> None:
    plan = served(memory__cap_gb=18.0)
    with pytest.raises(
        ConfigError, match=r"^memory\.cap_gb=18: a vLLM server needs \S+ GiB; set memory\.cap_gb="
    ) as caught:
        plan.served_cache(64)
    enough = float(str(caught.value).split("set memory.cap_gb=")[1].split(",")[0])
    assert served(memory__cap_gb=enough).served_cache(64) > 0


def test_a_server_takes_texts_as_long_as_a_duel_and_no_longer_than_the_model_can() -> None:
    plan = served()
    assert plan.longest_served() > 512 + 2 * 96
    assert served(sampling__max_prompt_tokens=100_000).longest_served() == LLAMA_8B.max_position_embeddings


@pytest.mark.parametrize("kind", ["server", "vllm"])
def test_rows_sampled_elsewhere_take_no_memory_here(kind: str) -> None:
    plan = Plan(tiny(), short(engine__kind=kind, memory__sampling_rows=10**9, memory__ram_gb=4.0), "cpu")
    plan.check()
    assert plan.costs.sampling(plan.sampling_rows) == {}
    assert [column.header for column in plan_table(plan).columns] == ["", "training", "scoring"]


def test_a_server_with_a_model_of_its_own_must_say_which() -> None:
    cfg = default()
    cfg.engines = {"outside": EngineConfig(kind="server", base_url="http://host/v1", tokenizer="x")}
    with pytest.raises(ConfigError, match=r"^engines\.outside\.model=null: say what the server calls its model"):
        check_settings(cfg)


# One of them at a time on the device


class Started:
    """An engine that would have started a server: it only remembers whether it was ended."""

    closed = 0

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def tools(tiny_config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> Tools:
    monkeypatch.setitem(ENGINES, "vllm", lambda host, key, engine: Started())
    tiny_config.engine = EngineConfig(kind="vllm", python="python")
    return make_store(tiny_config).tools


def test_the_server_is_ended_before_the_model_is_loaded_here(tools: Tools) -> None:
    engine: Any = tools.engine_of("sampling")
    assert engine.closed == 0
    assert tools.models.base is not None
    assert engine.closed == 1


def test_the_model_here_is_let_go_of_before_a_server_starts_and_comes_back_when_asked_for(tools: Tools) -> None:
    models = tools.models
    weights = models.base
    assert tools.engine_of("sampling") is tools.engine_of("judge")
    assert models._base is None
    assert tools.models is models
    assert models.base is not weights


def test_closing_ends_the_server_and_makes_none(tools: Tools) -> None:
    tools.close()
    assert not tools._engines
    engine: Any = tools.engine_of("sampling")
    tools.close()
    assert engine.closed == 1


def test_an_engine_on_the_model_here_is_made_anew_once_a_server_had_the_device(tools: Tools) -> None:
    tools.cfg.engines = {"here": EngineConfig()}
    tools.cfg.judge.engine = "here"
    server: Any = tools.engine_of("sampling")
    first = tools.engine_of("judge")
    assert server.closed
    assert tools.engine_of("judge") is first
    assert tools.engine_of("sampling") is server
    assert tools.engine_of("judge") is not first


# What ends an answer


def test_the_end_tokens_are_known_without_loading_the_model(tiny_model: Path) -> None:
    chat = Chat(tiny_model)
    assert chat.end_ids == [chat.tokenizer.eos_token_id] == [2]
