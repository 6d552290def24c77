"""An engine at a server that misbehaves on request: what it is asked, and what it would be answered without a fault."""

from __future__ import annotations

from selfreward.engines.base import Completion, Decoding, SampleRequest
from selfreward.engines.remote.client import Client
from selfreward.engines.server import ServerEngine
from selfreward.model.chat import Chat
from tests.faults import END, SLOW_SECONDS, expected_ids

DECODING = Decoding(0.7, 0.9, 6)
ASKED = [SampleRequest([5, 6, i], [10 * i + k for k in range(1 + i % 3)]) for i in range(12)]
ALL = sum(len(request.seeds) for request in ASKED)
SLOW = ("slow", "trickles")


def answers(asked: list[SampleRequest], *, seeded: bool = True) -> list[list[Completion]]:
    """What a server that never fails says."""
    made: list[list[Completion]] = []
    for request in asked:
        rows = [expected_ids(request.prompt_ids, seed if seeded else None, 6) for seed in request.seeds]
        made.append([Completion(ids, [-id / 10 for id in ids], ids[-1] == END) for ids in rows])
    return made


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
