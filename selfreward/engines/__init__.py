"""What runs the model. An engine is one file and one line here; it is imported when it is chosen."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

from selfreward.cap import share_of_gpu
from selfreward.config import EngineConfig, RunConfig
from selfreward.errors import ConfigError, first_line
from selfreward.model.model_files import locate_tokenizer

if TYPE_CHECKING:
    from selfreward.engines.base import Engine
    from selfreward.model.models import Models


class Sizes(Protocol):
    """What an engine asks of the memory plan."""

    @property
    def sampling_rows(self) -> int:
        """Answers decoded side by side."""
        ...

    @property
    def scoring_tokens(self) -> int:
        """Tokens in one scoring batch."""
        ...

    @property
    def blocked_weights(self) -> bool:
        """Whether decoding may keep a second copy of the layers' weights."""
        ...

    @property
    def on_cpu(self) -> bool:
        """Whether the run's device has no memory of its own."""
        ...

    @property
    def served_gb(self) -> float:
        """GiB of the GPU that must be free when such a server starts."""
        ...

    def longest_served(self) -> int:
        """Tokens of the longest text that a server that the run starts must take."""
        ...

    def served_cache(self, concurrency: int) -> int:
        """Bytes of keys and values that such a server may hold."""
        ...


@dataclass(frozen=True)
class Host:
    """What an engine is made from. The model and the plan are made when an engine asks for them. What an engine says is
    kept in the run's folder."""

    cfg: RunConfig
    model_folder: Path
    run_folder: Path
    models: Callable[[], Models]
    plan: Callable[[], Sizes]
    say: Callable[[Any], None]


def _hf(host: Host, key: str, engine: EngineConfig) -> Engine:
    from selfreward.engines.hf import HFEngine

    plan = host.plan()
    return HFEngine(
        host.models(),
        plan.sampling_rows,
        plan.scoring_tokens,
        merge_adapter=engine.merge_adapter,
        blocked_weights=plan.blocked_weights,
        cuda_graphs=host.cfg.speed.cuda_graphs,
        ram_gb=host.cfg.memory.ram_gb,
    )


def _server(host: Host, key: str, engine: EngineConfig) -> Engine:
    from selfreward.engines.remote.client import Client
    from selfreward.engines.server import ServerEngine
    from selfreward.model.chat import Chat

    client = Client(
        str(engine.base_url),
        os.environ.get(engine.key_variable) or "none",
        name=f"{key}.base_url={engine.base_url}",
        key_hint=f"put the server's key into the environment variable {engine.key_variable} ({key}.key_variable)",
        concurrency=engine.concurrency,
        retries=engine.retries,
        timeout_seconds=engine.timeout_seconds,
    )
    try:
        named = locate_tokenizer(f"{key}.tokenizer", engine.tokenizer) if engine.tokenizer else None
        chat = Chat(named or host.model_folder)
    except OSError as error:
        if engine.tokenizer is None:
            raise
        remedy = f"can't be had ({first_line(error)}); name a folder that holds a tokenizer, or a hub name"
        raise ConfigError(f"{key}.tokenizer", engine.tokenizer, remedy) from error
    made = ServerEngine(client, chat, model=engine.model, seeded=engine.seeded, outside=engine.is_outside)
    made.greet()  # now, and not when there is something for it to do
    if engine.is_outside:
        made.check_tokenizer(f"{key}.tokenizer={engine.tokenizer}")
    if made.longest and made.longest < (wanted := host.plan().longest_served()):
        host.say(f"{key}: the server takes {made.longest} tokens, and texts may have up to {wanted} (--max-model-len)")
    return made


def _vllm(host: Host, key: str, engine: EngineConfig) -> Engine:
    from selfreward.engines.vllm import Serving, VLLMEngine

    if not os.access(str(engine.python), os.X_OK):
        remedy = "there is no such program; name the interpreter of an environment that has vLLM"
        raise ConfigError(f"{key}.python", engine.python, remedy)
    plan = host.plan()
    serving = Serving(
        host.model_folder,
        host.cfg.model.dtype,
        host.cfg.train.lora.r,
        plan.longest_served(),
        plan.served_cache(engine.concurrency),
        engine.concurrency,
        None if plan.on_cpu else share_of_gpu(plan.served_gb),
    )
    return VLLMEngine(serving, key, engine, host.run_folder / "vllm.log", host.say)


ENGINES: dict[str, Callable[[Host, str, EngineConfig], Engine]] = {"hf": _hf, "server": _server, "vllm": _vllm}
"""Each makes an engine from its settings and the key that a person sets them under, by which errors call them."""


def check_engine(key: str, engine: EngineConfig, cfg: RunConfig) -> None:
    """Raise `ConfigError` for a setting of the engine under `key` that its kind lacks, or can't use."""
    if engine.kind == "server" and not _is_address(engine.base_url):
        raise ConfigError(f"{key}.base_url", engine.base_url, "name the server's address, as in http://host:8000/v1")
    for name, kind in (("base_url", "server"), ("model", "server"), ("python", "vllm")):
        if (given := getattr(engine, name)) is not None and engine.kind != kind:
            remedy = f"{engine.kind} takes none; set {key}.kind={kind}, or leave it out"
            raise ConfigError(f"{key}.{name}", given, remedy)
    if engine.kind == "vllm" and not engine.python:
        remedy = "name the interpreter of an environment that has vLLM, as in .venv-vllm/bin/python"
        raise ConfigError(f"{key}.python", engine.python, remedy)
    if engine.kind == "vllm" and cfg.train.quantization != "none":
        remedy = f"the server would run the model without it; set {key}.kind=hf, or train.quantization=none"
        raise ConfigError("train.quantization", cfg.train.quantization, remedy)
    if engine.tokenizer and engine.kind != "server":
        raise ConfigError(
            f"{key}.tokenizer", engine.tokenizer, f"{engine.kind} runs the run's own model; set {key}.kind=server"
        )
    if engine.tokenizer and not engine.model:
        remedy = "say what the server calls its model: results depend on it"
        raise ConfigError(f"{key}.model", engine.model, remedy)
    if engine.merge_adapter and cfg.train.quantization != "none":
        remedy = f"quantised weights can't be put back as they were; set {key}.merge_adapter=false"
        raise ConfigError("train.quantization", cfg.train.quantization, remedy)
    if engine.merge_adapter and engine.kind != "hf":
        remedy = f"{engine.kind} keeps adapters beside the weights; set {key}.kind=hf, or {key}.merge_adapter=false"
        raise ConfigError(f"{key}.merge_adapter", True, remedy)
    if not engine.seeded and engine.kind == "hf":
        raise ConfigError(
            f"{key}.seeded", False, f"hf takes a seed for each answer; leave it true, or set {key}.kind=server"
        )


def _is_address(text: str | None) -> bool:
    try:
        parts = urlsplit(text or "")
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number, for one
        return False
