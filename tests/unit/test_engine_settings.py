"""An engine that can't play its role, or be reached, is refused before anything loads, in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from selfreward.config import EngineConfig, RunConfig
from selfreward.errors import ConfigError
from selfreward.kinds import check_settings
from tests.settings import assert_refused, sound


@pytest.fixture
def cfg(tmp_path: Path) -> RunConfig:
    return sound(tmp_path)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            {"judge.engine": "outside"},
            r"judge.engine=outside: engines has none; \+engine@engines.outside=<choice> adds it",
        ),
        (
            {"evaluation.engine": "outsid", "engines": {"outside": EngineConfig(), "other": EngineConfig()}},
            r"evaluation.engine=outsid: engines has outside, other; \+engine@engines.outsid=",
        ),
        (
            {"judge.kind": "length", "judge.engine": "outside", "engines": {"outside": EngineConfig()}},
            "judge.engine=outside: judge=length asks no model; leave it out, or use judge=expected",
        ),
        ({"engines": {"outside": EngineConfig(kind="steam")}}, "engines.outside.kind=steam: use one of hf"),
        ({"engines": {"outside": EngineConfig(device="tpu")}}, "engines.outside.device=tpu: use one of auto, cpu"),
        (
            {"engines": {"outside": EngineConfig(device="cuda")}, "engine.device": "cpu"},
            "engines.outside.device=cuda: the model is in memory once, on engine.device=cpu; leave it out",
        ),
        (
            {"engines": {"outside": EngineConfig(tokenizer="x")}},
            "engines.outside.tokenizer=x: hf runs the run's own model; set engines.outside.kind=server",
        ),
        (
            {"engines": {"outside": EngineConfig("server", "x", base_url="http://h/v1", model="m", parity_limit=1.0)}},
            "engines.outside.parity_limit=1.0: an engine with a model of its own is not held against training; leave",
        ),
        (
            {"engines": {"outside": EngineConfig()}},
            "engines.outside=hf: it plays no role; set judge.engine=outside or evaluation.engine=outside, or leave it",
        ),
        ({"engine.tokenizer": "x"}, "engine.tokenizer=x: policies answer prompts, .*; put an outside one into engines"),
    ],
)
def test_an_engine_that_can_not_play_its_role_is_refused(
    cfg: RunConfig, overrides: dict[str, Any], message: str
) -> None:
    assert_refused(cfg, overrides, message)


@pytest.mark.parametrize(
    "url",
    [
        pytest.param("http://localhost:80a/v1", id="a port that is no number"),
        pytest.param("http://localhost:99999/v1", id="a port that there is not"),
        pytest.param("http://[::1/v1", id="half a bracket"),
        pytest.param("http:///v1", id="no host"),
        pytest.param("localhost:8000/v1", id="no scheme"),
    ],
)
def test_a_server_s_address_that_no_request_could_reach_is_refused(cfg: RunConfig, url: str) -> None:
    cfg.engines = {"outside": EngineConfig(kind="server", base_url=url)}
    with pytest.raises(ConfigError) as caught:
        check_settings(cfg)
    assert str(caught.value) == (
        f"engines.outside.base_url={url}: name the server's address, as in http://host:8000/v1"
    )


def test_an_engine_may_be_named_for_more_than_one_role(cfg: RunConfig) -> None:
    cfg.engines = {"outside": EngineConfig(merge_adapter=True)}
    cfg.judge.engine = cfg.evaluation.engine = "outside"
    check_settings(cfg)
