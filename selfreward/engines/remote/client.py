"""Requests to an OpenAI-compatible server: many at once, tried again where that can help, one line where it can't.

This is the one place that tries again; the `openai` client's own retries are off. A request that is tried again takes
its own place: each has one result, whatever went wrong before.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import openai

from selfreward.errors import ServerError

Result = TypeVar("Result")

LONGEST_PAUSE = 60.0  # seconds between two attempts
_CONNECT_SECONDS = 10.0
_PASSING = {408, 409, 425, 429}  # and all from 500 up: what may be another answer the next time


class MalformedError(ValueError):
    """A reply that is not what was asked for; the next one may be."""


@dataclass(frozen=True)
class Request:
    """What is asked: a path below the base address, and a body to post; without one, it is a GET.

    `remedy` is what to do where the server refuses it.
    """

    path: str
    body: dict[str, Any] | None = None
    remedy: str = (
        "check the address, which ends in /v1, the name of the model, and how long a text the server takes; "
        "after a server was started anew, the same command goes on from here"
    )


class Client:
    """Sends requests to the server at `base_url`.

    Args:
        base_url: the address, which ends in `/v1`.
        key: the server's key.
        name: what an error calls the server: the setting that leads to it, and its value.
        key_hint: what to do where the server refuses the key.
        concurrency: requests under way at once.
        retries: further attempts at one that failed.
        timeout_seconds: how long an attempt may take.
        pause: seconds before the second attempt; each later pause is twice the one before it.
        local: whether the server is on this machine, where no proxy leads.
        check: called before each further attempt; raises where there is no use in one.
    """

    def __init__(
        self,
        base_url: str,
        key: str,
        *,
        name: str,
        key_hint: str,
        concurrency: int,
        retries: int,
        timeout_seconds: float,
        pause: float = 0.5,
        local: bool = False,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self._base_url, self._key, self._name, self._key_hint = base_url, key, name, key_hint
        self._concurrency, self._retries, self._timeout = concurrency, retries, timeout_seconds
        self._pause, self._local, self._check = pause, local, check

    def send(
        self,
        requests: Sequence[Request],
        read: Callable[[int, Any], Result],
        done: Callable[[int, Result], None] = lambda *_: None,
        concurrency: int | None = None,
    ) -> list[Result]:
        """What `read` makes of each request's number and the reply to it, in their order.

        `read` raises `MalformedError` for a reply that is not what was asked for, and `ServerError` for one that shows
        that no other will be. `done` is told of each result once, in the order in which they come. `concurrency` stands
        in for the client's own.

        Raises `ServerError` for the first request that fails for good; the others are given up.
        """
        if not requests:
            return []
        return asyncio.run(self._send(requests, read, done, asyncio.Semaphore(concurrency or self._concurrency)))

    async def _send(
        self,
        requests: Sequence[Request],
        read: Callable[[int, Any], Result],
        done: Callable[[int, Result], None],
        places: asyncio.Semaphore,
    ) -> list[Result]:
        async def one(index: int, request: Request) -> Result:
            async with places:
                result = await self._insist(connection, request, partial(read, index))
            done(index, result)
            return result

        timeout = openai.Timeout(self._timeout, connect=min(_CONNECT_SECONDS, self._timeout))
        http = openai.DefaultAsyncHttpxClient(timeout=timeout, trust_env=not self._local)
        async with openai.AsyncOpenAI(
            api_key=self._key, base_url=self._base_url, max_retries=0, timeout=timeout, http_client=http
        ) as connection:
            try:
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(one(i, request)) for i, request in enumerate(requests)]
            except ExceptionGroup as failures:
                raise failures.exceptions[0] from None  # the first; the group has ended the others
        return [task.result() for task in tasks]

    async def _insist(self, connection: openai.AsyncOpenAI, request: Request, read: Callable[[Any], Result]) -> Result:
        for attempt in range(self._retries + 1):
            if attempt:
                self._check()
            try:
                async with asyncio.timeout(self._timeout):  # the connection's own starts anew with each byte
                    reply = await _ask(connection, request)
                return read(reply)
            except ServerError as error:  # `read` sees no use in another attempt
                raise self._error(str(error)) from None
            except (openai.APIError, ValueError, TimeoutError) as error:
                if not _is_passing(error):
                    raise self._error(f"{_seen(error)}; {self._remedy(error, request)}") from None
                if attempt == self._retries:
                    remedy = "see that the server is well and can be reached; the same command goes on from here"
                    raise self._error(f"{_seen(error)}, at the last of {attempt + 1} attempts; {remedy}") from None
                pause = min(max(self._pause * 2**attempt, _asked_pause(error)), LONGEST_PAUSE)
            await asyncio.sleep(pause * random.uniform(1, 1.25))  # so that not all come back at once
        raise AssertionError("unreachable")

    def _error(self, text: str) -> ServerError:
        return ServerError(f"{self._name}: {text}")

    def _remedy(self, error: Exception, request: Request) -> str:
        refused = isinstance(error, openai.APIStatusError) and error.status_code in (401, 403)
        return self._key_hint if refused else request.remedy


async def _ask(connection: openai.AsyncOpenAI, request: Request) -> Any:
    send = connection.get if request.body is None else partial(connection.post, body=request.body)
    return await send(request.path, cast_to=object)


def _is_passing(error: Exception) -> bool:
    if isinstance(error, openai.APIStatusError):
        return error.status_code in _PASSING or error.status_code >= 500
    return True  # no reply, half a reply, or one that is not what was asked for


def _seen(error: Exception) -> str:
    """What went wrong, in a few words."""
    if isinstance(error, (openai.APITimeoutError, TimeoutError)):
        return "no reply in time"
    if isinstance(error, openai.APIConnectionError):
        return f"no connection ({_short(error.__cause__ or error)})"
    if isinstance(error, openai.APIStatusError):
        return f"status {error.status_code} ({_short(error)})"
    if isinstance(error, MalformedError):
        return str(error)
    return f"a reply that can't be read ({_short(error)})"


def _asked_pause(error: Exception) -> float:
    """The seconds that the server asks to wait, 0 where it doesn't say."""
    if not isinstance(error, openai.APIStatusError):
        return 0.0
    try:
        return float(error.response.headers.get("retry-after", 0))
    except ValueError:  # a date, which nobody sends
        return 0.0


def _short(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else f"{text[:200]}..."
