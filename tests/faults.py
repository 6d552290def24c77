"""A server that speaks just enough of the completions API, always gives the same answers, and misbehaves on request.

It stands in for no model: what it answers is arithmetic. What it is for is what can go wrong on the way.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

END = 2
SLOW_SECONDS = 3.0
STATUS = {"400": 400, "401": 401, "404": 404, "408": 408, "409": 409, "429": 429, "500": 500, "503": 503}


@dataclass
class Script:
    """How the server behaves. `faults` befall the attempts at each completion in turn; what comes after is answered."""

    faults: Sequence[str] = ()
    spell: Callable[[list[int]], str] = lambda ids: ""  # the text of tokens
    features: set[str] = field(default_factory=lambda: {"token_ids", "end", "logprob_token_ids", "echo", "lora"})
    asked: Counter[str] = field(default_factory=Counter)
    answered: Counter[str] = field(default_factory=Counter)
    keys: set[str | None] = field(default_factory=set)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    adapters: dict[str, str] = field(default_factory=dict)
    loads: int = 0  # requests to load an adapter
    times: list[float] = field(default_factory=list)
    seconds: float = 0.0  # that an answer takes
    busy: int = 0
    busiest: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


def expected_ids(prompt: Sequence[int], seed: int | None, longest: int) -> list[int]:
    """The tokens that the server answers with: of chance length, and ended by `END` where there is room."""
    drawn = hashlib.sha256(json.dumps([list(prompt), seed]).encode()).digest()
    length = 1 + drawn[0] % (longest + 3)
    ids = [10 + byte for byte in drawn[1:length]] + [END]
    return ids[:longest]


@contextmanager
def serving(script: Script, port: int = 0) -> Iterator[str]:
    """The address of a server that follows `script`, while it lives."""
    server = _Server(("127.0.0.1", port), _handler(script))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    request_queue_size = 128  # of connections that wait: one that is turned away would be a fault nobody asked for


def _handler(script: Script) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        is_busy = False

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing: a test's output is its own."""

        def do_GET(self) -> None:
            script.keys.add(self.headers.get("Authorization"))
            cards = [{"id": "base", "root": "/model", "max_model_len": 1000}]
            cards += [{"id": name, "root": root} for name, root in script.adapters.items()]
            self._reply({"object": "list", "data": cards})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path.endswith("/load_lora_adapter"):
                self._load(body)
                return
            key = json.dumps([body["prompt"], body.get("seed"), body["model"]])
            with script.lock:
                attempt = script.asked[key]
                script.asked[key] += 1
                script.bodies.append(body)
                script.times.append(time.monotonic())
                script.busy += 1
                script.busiest = max(script.busy, script.busiest)
            fault = script.faults[attempt] if attempt < len(script.faults) else "none"
            self.is_busy = True
            try:
                self._misbehave(fault, body, key)
            finally:
                self._leave()

        def _misbehave(self, fault: str, body: dict[str, Any], key: str) -> None:
            choice = _choice(body, script)
            if fault in STATUS:
                self._reply({"error": {"message": f"fault {fault}"}}, STATUS[fault])
            elif fault == "garbage":
                self._send(b"<html>this is a proxy</html>", "text/html")
            elif fault == "no json":
                self._send(b"\xff\xfe{", "application/json")
            elif fault == "half a body":
                self._send(json.dumps({"choices": [choice]}).encode(), "application/json", share=0.5)
            elif fault == "trickles":
                self._send(json.dumps({"choices": [choice]}).encode(), "application/json", seconds=SLOW_SECONDS)
            elif fault == "dies":
                self.connection.close()
            elif fault == "no answers":
                self._reply({"choices": []})
            elif fault == "fewer log-probabilities":
                choice["logprobs"]["token_logprobs"] = [*choice["logprobs"]["token_logprobs"][:-1], None]
                self._reply({"choices": [choice]})
            elif fault == "no log-probabilities":
                self._reply({"choices": [choice | {"logprobs": None}]})
            elif fault == "broken off":
                self._reply({"choices": [choice | {"finish_reason": "abort"}]})
            else:
                time.sleep(SLOW_SECONDS if fault == "slow" else script.seconds)
                self._reply({"choices": [choice]})
                with script.lock:
                    script.answered[key] += 1

        def _leave(self) -> None:
            """Count as busy no more: once the other side has its answer, its next request may come at any moment."""
            with script.lock:
                script.busy -= self.is_busy
                self.is_busy = False

        def _load(self, body: dict[str, Any]) -> None:
            script.loads += 1
            if "lora" not in script.features:
                self._reply({"detail": "Not Found"}, 404)
            elif body["lora_name"] in script.adapters:
                self._reply({"error": {"message": "has already been loaded"}}, 400)
            else:
                script.adapters[body["lora_name"]] = body["lora_path"]
                self._send(b"Success", "text/plain")

        def _reply(self, reply: dict[str, Any], status: int = 200) -> None:
            self._send(json.dumps(reply).encode(), "application/json", status)

        def _send(self, data: bytes, kind: str, status: int = 200, share: float = 1.0, seconds: float = 0.0) -> None:
            part = max(len(data) // 20, 1) if seconds else len(data)
            self._leave()
            try:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(data)))
                if status == 429:
                    self.send_header("Retry-After", "0.3")
                self.end_headers()
                sent = data[: int(len(data) * share)]
                for start in range(0, len(sent), part):
                    self.wfile.write(sent[start : start + part])
                    time.sleep(seconds * part / len(data))
            except OSError:
                return  # the other side has gone

    return Handler


def _choice(body: dict[str, Any], script: Script) -> dict[str, Any]:
    prompt, longest, features = body["prompt"], body["max_tokens"], script.features
    ids = expected_ids(prompt, body.get("seed"), longest)
    finished = ids[-1] == END
    kept = ids if "end" in features or not finished else ids[:-1] or [9]
    named = {id: -0.5 - id / 100 for id in (body.get("logprob_token_ids") or [])}
    if "logprob_token_ids" not in features:
        named = {id: value for id, value in named.items() if id % 2 and "likeliest" in features}
        named |= {99: -20.0} if "far ones too" in features else {}
    tops = {f"token_id:{kept[0]}": -0.1} | {f"token_id:{id}": value for id, value in named.items()}
    if "by text" in features:
        tops = {script.spell([id]): value for id, value in named.items()}
    echoed = [None, *(-id / 10 for id in prompt[1:])] if body.get("echo") and "echo" in features else []
    values = [*echoed, *(-id / 10 for id in kept)]
    choice = {
        "index": 0,
        "text": script.spell(kept),
        "finish_reason": "stop" if finished else "length",
        "logprobs": {"tokens": [], "token_logprobs": values, "top_logprobs": [tops]},
    }
    return choice | ({"token_ids": kept} if "token_ids" in features else {})
