"""A server in a process of its own: started, waited for, and ended on every way out."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from selfreward.engines.remote import leash
from selfreward.errors import ServerError

_LEFT_OUT = ("PYTHONPATH", "PYTHONHOME", "PYTORCH_CUDA_ALLOC_CONF")  # what our interpreter needs is not the server's
_SAY_SECONDS = 15.0  # between two lines of progress


class Child:
    """A server that runs `command` on this machine, and never outlives this process (see `leash`).

    Its output goes to `log`. It is on a leash from the moment it starts; `close` gives it `grace_seconds` to end by
    itself, and waits until all of it is gone.
    """

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], log: Path, grace_seconds: float = 20.0
    ) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self.log = log
        self._began = time.monotonic()
        inherited = {key: value for key, value in os.environ.items() if key not in _LEFT_OUT}
        with log.open("wb") as output:
            self._leash = subprocess.Popen(
                [sys.executable, "-I", leash.__file__, str(grace_seconds), *command],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=log.parent,
                env=inherited | {"PYTHONSAFEPATH": "1"} | dict(environment),
                start_new_session=True,  # an interrupt from the keyboard is for us; we end it in order
            )

    def await_ready(self, url: str, key: str, seconds: float, say: Callable[[str], None]) -> None:
        """Wait until `url` answers, for as long as the setting `key` allows. `say` is told how long it takes.

        Raises `ServerError` where the server ends before, or takes longer.
        """
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        said = self._began
        while True:
            self.check()
            try:
                with opener.open(url, timeout=5):
                    break
            except (urllib.error.URLError, OSError):  # not yet
                pass
            waited = time.monotonic() - self._began
            if waited > seconds:
                self.close()
                last = f"last in {self.log}: {self._last_line()}"
                raise ServerError(f"the server was not ready after {waited:.0f} s ({last}): raise {key}")
            if time.monotonic() - said > _SAY_SECONDS:
                said = time.monotonic()
                say(f"waiting for the server, {waited:.0f} s; it writes to {self.log}")
            time.sleep(0.2)
        say(f"the server is ready after {time.monotonic() - self._began:.0f} s")

    def check(self) -> None:
        """Raise `ServerError` where the server has ended."""
        code = self._leash.poll()
        if code is not None:
            raise ServerError(f"the server ended with code {code} ({self._last_line()}); {self.log} says more")

    def close(self) -> None:
        """End the server and all its processes, and wait until they are gone."""
        assert self._leash.stdin
        self._leash.stdin.close()
        self._leash.wait()

    def _last_line(self) -> str:
        lines = [line.strip() for line in self.log.read_text(errors="replace").splitlines()]
        errors = [match[0] for line in lines if (match := re.search(r"\w+(Error|Exception): .*", line))]
        return next((line[:300] for line in reversed(errors or lines) if line), "it wrote nothing")


def free_port() -> int:
    """A port of this machine that nobody listens at."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]
