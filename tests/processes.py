"""Two processes of one group, kept for many calls, and an engine whose requests they divide as the stages do."""

from __future__ import annotations

import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any

from selfreward.engines.base import Advance, Completion, Decoding, SampleRequest
from selfreward.engines.hf import HFEngine
from selfreward.errors import SelfRewardError
from selfreward.group import ALONE, Group, join
from selfreward.model.adapters import Adapter
from selfreward.model.models import Models
from selfreward.records import Candidate, ReferenceLogprobs
from selfreward.store import Work
from selfreward.store.observer import NoMeter, Silent


class Processes:
    """So many processes, joined over gloo."""

    def __init__(self, size: int = 2) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        context = multiprocessing.get_context("spawn")
        ranks: Any = context.SimpleQueue()
        for rank in range(size):
            ranks.put(rank)
        self._size = size
        self._pool = ProcessPoolExecutor(size, context, initializer=_begin, initargs=(ranks, size, port))

    def call(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """What `function(group, *arguments)` returns in each process, by rank."""
        futures = [self._pool.submit(_call, function, arguments) for _ in range(self._size)]
        return [result for _, result in sorted((future.result(timeout=300) for future in futures), key=lambda r: r[0])]

    def close(self) -> None:
        self._pool.shutdown()


_group = ALONE


def _begin(ranks: Any, size: int, port: int) -> None:
    global _group
    os.environ |= {"RANK": str(ranks.get()), "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1"}
    os.environ["MASTER_PORT"] = str(port)
    _group = join(lambda: "cpu")


def _call(function: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[int, Any]:
    try:
        return _group.rank, function(_group, *arguments)
    except SelfRewardError:  # which all of them raise
        raise
    except BaseException:
        traceback.print_exc()
        os._exit(1)  # the others would wait for this one


class SpreadEngine:
    """An engine whose every request goes through the shards of two processes, one request a shard.

    Args:
        processes: those that compute; None computes here, by the same shards.
        model: the model's folder.
        scratch: where the shards go.
    """

    def __init__(self, processes: Processes | None, model: Path, scratch: Path) -> None:
        self._processes = processes
        self._model = model
        self._scratch = scratch
        self._calls = 0
        self.chat = Models(model, "float32", "cpu").chat

    def sample(
        self, requests: Sequence[SampleRequest], decoding: Decoding, adapter: Adapter | None, advance: Advance
    ) -> list[list[Completion]]:
        rows = self._spread(advance, _sample, list(requests), decoding, adapter)
        found = iter([Completion(row.token_ids, row.logprobs, row.finished) for row in rows])
        return [[next(found) for _ in request.seeds] for request in requests]

    def score(
        self, prompts: Sequence[list[int]], choice_ids: Sequence[int], adapter: Adapter | None, advance: Advance
    ) -> list[list[float]]:
        return [row.chosen for row in self._spread(advance, _score, list(prompts), list(choice_ids), adapter)]

    def logprobs(
        self, prompts: Sequence[list[int]], completions: Sequence[list[int]], adapter: Adapter | None, advance: Advance
    ) -> list[list[float]]:
        pairs = list(zip(prompts, completions, strict=True))
        return [row.chosen for row in self._spread(advance, _logprobs, pairs, adapter)]

    def close(self) -> None:
        """The processes are their maker's to end."""

    def _spread(self, advance: Advance, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        self._calls += 1
        arguments = (self._model, self._scratch / str(self._calls), *arguments)
        if self._processes is None:
            rows, heard = function(ALONE, *arguments)
        else:
            (rows, heard), other = self._processes.call(function, *arguments)
            assert other == (rows, heard)
        for units, tokens in heard:
            advance(units, tokens)
        return rows


_engines: dict[Path, HFEngine] = {}


def _engine(model: Path) -> HFEngine:
    if model not in _engines:
        _engines[model] = HFEngine(Models(model, "float32", "cpu"), 8, 512, merge_adapter=False)
    return _engines[model]


Heard = list[tuple[float, int]]


def _shards(
    group: Group, scratch: Path, items: list[Any], compute: Callable[[Any, Advance], list[Any]], record: Any
) -> tuple[list[Any], Heard]:
    """The rows of all shards, and the progress of all processes.

    What one process raises is raised in all: they go on to the next call together.
    """
    raised: list[SelfRewardError] = []
    heard: Heard = []

    def attempt(shard: Sequence[Any]) -> list[Any]:
        try:
            return compute(shard[0], lambda units, tokens: heard.append((units, tokens)))
        except SelfRewardError as error:
            raised.append(error)
            return []

    rows = Work(scratch, 0, Silent(), NoMeter(), group).shards([[item] for item in items], attempt, record)
    for error in chain(*group.gather(raised)):
        raise error
    return rows, list(chain(*group.gather(heard)))


def _sample(
    group: Group, model: Path, scratch: Path, requests: list[Any], decoding: Decoding, adapter: Adapter | None
) -> tuple[list[Any], Heard]:
    def compute(request: SampleRequest, advance: Advance) -> list[Any]:
        (made,) = _engine(model).sample([request], decoding, adapter, advance)
        return [Candidate("", "", i, "", [], c.token_ids, c.logprobs, c.finished) for i, c in enumerate(made)]

    return _shards(group, scratch, requests, compute, Candidate)


def _score(
    group: Group, model: Path, scratch: Path, prompts: list[Any], choice_ids: list[int], adapter: Adapter | None
) -> tuple[list[Any], Heard]:
    def compute(prompt: list[int], advance: Advance) -> list[Any]:
        (found,) = _engine(model).score([prompt], choice_ids, adapter, advance)
        return [ReferenceLogprobs("", 0, 0, found, [])]

    return _shards(group, scratch, prompts, compute, ReferenceLogprobs)


def _logprobs(
    group: Group, model: Path, scratch: Path, pairs: list[Any], adapter: Adapter | None
) -> tuple[list[Any], Heard]:
    def compute(pair: tuple[list[int], list[int]], advance: Advance) -> list[Any]:
        (found,) = _engine(model).logprobs([pair[0]], [pair[1]], adapter, advance)
        return [ReferenceLogprobs("", 0, 0, found, [])]

    return _shards(group, scratch, pairs, compute, ReferenceLogprobs)
