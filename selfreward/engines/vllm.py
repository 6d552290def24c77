"""vLLM in an environment of its own, as a server that the run starts when it samples and ends before it trains."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from selfreward.config import EngineConfig
from selfreward.engines.base import Advance, Completion, Decoding, SampleRequest
from selfreward.engines.remote.child import Child, free_port
from selfreward.engines.remote.client import Client
from selfreward.engines.server import ServerEngine
from selfreward.errors import ConfigError
from selfreward.model.adapters import Adapter
from selfreward.model.chat import Chat

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # the adapter ranks that vLLM can be set to
_MODEL = "base"
_LEAST_BATCHED = 4096  # tokens in one step of a server on a CPU


@dataclass(frozen=True)
class Serving:
    """What a server is to run: a model's folder and dtype, adapters up to a rank, texts up to a length in tokens, and
    the bytes that it may hold in keys and values, for so many requests at once. `gpu_share` is the part of a card that
    it may take in all; None for vLLM's build for a CPU."""

    folder: Path
    dtype: str
    rank: int
    longest: int
    cache_bytes: int
    requests: int
    gpu_share: float | None


class VLLMEngine:
    """Samples and scores on a vLLM server, which is started when it is first asked, and again after a `close`.

    Args:
        serving: what the server runs.
        key: the key of its settings, by which errors call them.
        engine: the settings.
        log: where the server writes.
        say: told how its start goes.
    """

    def __init__(self, serving: Serving, key: str, engine: EngineConfig, log: Path, say: Callable[[str], None]) -> None:
        self._serving, self._key, self._engine, self._log, self._say = serving, key, engine, log, say
        self._chat = Chat(serving.folder)
        self._child: Child | None = None
        self._server: ServerEngine | None = None

    @property
    def chat(self) -> Chat:
        return self._chat

    def sample(
        self, requests: Sequence[SampleRequest], decoding: Decoding, adapter: Adapter | None, advance: Advance
    ) -> list[list[Completion]]:
        return self._running().sample(requests, decoding, adapter, advance)

    def score(
        self, prompts: Sequence[list[int]], choice_ids: Sequence[int], adapter: Adapter | None, advance: Advance
    ) -> list[list[float]]:
        return self._running().score(prompts, choice_ids, adapter, advance)

    def logprobs(
        self, prompts: Sequence[list[int]], completions: Sequence[list[int]], adapter: Adapter | None, advance: Advance
    ) -> list[list[float]]:
        return self._running().logprobs(prompts, completions, adapter, advance)

    def close(self) -> None:
        """End the server, and wait until it and its memory are gone."""
        child, self._child, self._server = self._child, None, None
        if child:
            child.close()

    def _running(self) -> ServerEngine:
        if self._server is None:
            self._server = self._start()
        return self._server

    def _start(self) -> ServerEngine:
        key, port = secrets.token_hex(16), free_port()
        address = f"http://127.0.0.1:{port}"
        self._say(f"starting vLLM; it writes to {self._log}")
        child = self._child = Child(
            command(str(self._engine.python), self._serving, port),
            environment(str(self._engine.python), key),
            self._log.resolve(),
        )
        try:
            child.await_ready(f"{address}/health", f"{self._key}.start_seconds", self._engine.start_seconds, self._say)
        except BaseException:
            self.close()
            raise
        client = Client(
            f"{address}/v1",
            key,
            name=f"{self._key}.kind=vllm ({address})",
            key_hint="the server has another key than the run gave it; start the run again",
            concurrency=self._engine.concurrency,
            retries=self._engine.retries,
            timeout_seconds=self._engine.timeout_seconds,
            local=True,
            check=child.check,
        )
        return ServerEngine(client, self._chat, model=_MODEL, seeded=self._engine.seeded)


def command(python: str, serving: Serving, port: int) -> list[str]:
    """The command line of the server."""
    settings = {
        "model": serving.folder.resolve(),
        "served-model-name": _MODEL,
        "host": "127.0.0.1",
        "port": port,
        "dtype": serving.dtype,
        "max-model-len": serving.longest,
        "kv-cache-memory-bytes": serving.cache_bytes,
        "max-lora-rank": lora_rank(serving.rank),
        "generation-config": "vllm",  # or the model's own settings would decide what a request leaves open
    }
    if serving.gpu_share is None:
        settings["max-num-batched-tokens"] = max(serving.longest, _LEAST_BATCHED)
    else:  # vLLM's own choices are nearly all of the card, and room for the logits of 1,024 requests
        settings |= {"gpu-memory-utilization": round(serving.gpu_share, 4), "max-num-seqs": serving.requests}
    switches = ["--enable-lora", "--enable-prefix-caching"]
    if serving.gpu_share is None:
        # vLLM sets a request's generator back after a prompt that was computed in parts, and a CPU's has no such thing:
        # without this, the first such prompt with a seed ends the server.
        switches.append("--no-enable-chunked-prefill")
    options = [part for name, value in settings.items() for part in (f"--{name}", str(value))]
    return [str(Path(python).absolute()), "-m", "vllm.entrypoints.openai.api_server", *options, *switches]


def environment(python: str, key: str) -> Mapping[str, str]:
    """What the server finds in its environment; the key goes there, for command lines are everybody's to read."""
    return {
        "PATH": os.pathsep.join([str(Path(python).absolute().parent), os.environ.get("PATH", "")]),  # for its own tools
        "VLLM_API_KEY": key,
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    }


def lora_rank(rank: int) -> int:
    """The least rank that vLLM can be set to and that holds adapters of `rank`.

    Raises `ConfigError` past its largest.
    """
    for allowed in RANKS:
        if allowed >= rank:
            return allowed
    raise ConfigError("train.lora.r", rank, f"vLLM takes adapters of rank {RANKS[-1]} at most; use less, or engine=hf")
