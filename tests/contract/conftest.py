"""The engines that take part: for each a function that gives it, on a given model, for as long as it is asked."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.conftest import vllm_python

if TYPE_CHECKING:
    from selfreward.engines.base import Engine

LONGEST = 2048  # tokens of the longest text that the model takes


@contextmanager
def _hf(model: Path, logs: Path) -> Iterator[Engine]:
    from selfreward.engines.hf import HFEngine
    from selfreward.model.models import Models

    yield HFEngine(Models(model, "float32", "cpu"), rows=64, scoring_tokens=2048, merge_adapter=False)


@contextmanager
def _vllm(model: Path, logs: Path) -> Iterator[Engine]:
    from selfreward.config import EngineConfig
    from selfreward.engines.vllm import Serving, VLLMEngine

    settings = EngineConfig(kind="vllm", python=vllm_python(), retries=1)
    serving = Serving(model, "float32", rank=4, longest=LONGEST, cache_bytes=1 << 28, requests=64, gpu_share=None)
    engine = VLLMEngine(serving, "engine", settings, logs / "vllm.log", print)
    try:
        yield engine
    finally:
        engine.close()


@contextmanager
def _two_processes(model: Path, logs: Path) -> Iterator[Engine]:
    from tests.processes import Processes, SpreadEngine

    processes = Processes(2)
    try:
        yield SpreadEngine(processes, model, logs)
    finally:
        processes.close()


ENGINES: dict[str, Callable[[Path, Path], AbstractContextManager[Engine]]] = {
    "hf": _hf,
    "two processes": _two_processes,
    "vllm": _vllm,
}
MARKS = {"vllm": pytest.mark.vllm}


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with heads as large as all engines take, and a further end token that its greedy answers reach."""
    from selfreward.engines.base import Decoding, SampleRequest
    from tests.asking import PROMPTS
    from tests.tiny import save_tiny_model

    folder = save_tiny_model(tmp_path_factory.mktemp("contract") / "model", head_dim=32)
    with _hf(folder, folder) as engine:
        asked = [SampleRequest(engine.chat.render(prompt), [0]) for prompt in PROMPTS]
        made = [row[0].token_ids for row in engine.sample(asked, Decoding(0.0, 1.0, 10), None, lambda *_: None)]
    path = folder / "generation_config.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps(settings | {"eos_token_id": [settings["eos_token_id"], made[0][4]], "top_k": 1}))
    return folder


@pytest.fixture(scope="session", params=[pytest.param(name, marks=MARKS.get(name, ())) for name in ENGINES])
def engine(request: pytest.FixtureRequest, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with ENGINES[request.param](model, tmp_path_factory.mktemp("logs")) as engine:
        yield engine
