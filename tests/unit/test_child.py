"""A server in a process of its own is ended on every way out, its own children too.

The server here is a script that starts a child of its own, as vLLM does, and answers: what is tested is our handling.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from selfreward.engines.remote.child import Child, free_port
from selfreward.errors import ServerError
from tests.gone import gone, wait_until_gone

SERVER = """
import http.server, signal, subprocess, sys, time
port, pids, stubborn = int(sys.argv[1]), sys.argv[2], sys.argv[3] == "stubborn"
if stubborn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
inner = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
inner = subprocess.Popen([sys.executable, "-c", inner])
time.sleep(0.3)
import os
open(pids, "w").write(f"{os.getpid()} {inner.pid}")
print("listening", flush=True)
http.server.HTTPServer(("127.0.0.1", port), http.server.SimpleHTTPRequestHandler).serve_forever()
"""


def start(tmp_path: Path, *, stubborn: bool = False, grace: float = 20.0) -> tuple[Child, list[int]]:
    """The server, once it answers, and the ids of its process and of that one's child."""
    port, pids = free_port(), tmp_path / "pids"
    arguments = [str(port), str(pids), "stubborn" if stubborn else ""]
    child = Child([sys.executable, "-c", SERVER, *arguments], {}, tmp_path / "server.log", grace)
    child.await_ready(f"http://127.0.0.1:{port}/", "seconds", 30, lambda _: None)
    return child, [int(pid) for pid in pids.read_text().split()]


def test_after_close_neither_the_server_nor_its_child_is_there(tmp_path: Path) -> None:
    child, pids = start(tmp_path)
    assert not gone(pids)
    child.close()
    assert gone(pids)


def test_a_server_that_does_not_end_by_itself_is_killed(tmp_path: Path) -> None:
    child, pids = start(tmp_path, stubborn=True, grace=0.5)
    child.close()
    assert gone(pids)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGHUP])
def test_when_the_run_is_ended_by_a_signal_so_is_the_server(tmp_path: Path, number: signal.Signals) -> None:
    run = subprocess.Popen(
        [sys.executable, "-m", "tests.unit.test_child", str(tmp_path)], cwd=Path(__file__).parents[2]
    )
    deadline = time.monotonic() + 60
    while not (tmp_path / "ready").exists():
        assert run.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    assert not gone(pids)
    run.send_signal(number)
    assert run.wait() == -number
    wait_until_gone(pids, 10)


def test_when_the_leash_itself_is_ended_so_is_the_server(tmp_path: Path) -> None:
    child, pids = start(tmp_path)
    psutil.Process(pids[0]).parent().send_signal(signal.SIGTERM)  # pyright: ignore[reportOptionalMemberAccess]
    wait_until_gone(pids, 10)
    child.close()
    with pytest.raises(ServerError, match="the server ended with code"):
        child.check()


def test_a_server_that_ends_before_it_is_ready_is_one_line_that_names_its_log(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "server.log"
    child = Child([sys.executable, "-c", "print('so far'); raise MemoryError('no room')"], {}, log)
    with pytest.raises(ServerError, match=rf"ended with code 1 \(MemoryError: no room\); {log} says more"):
        child.await_ready("http://127.0.0.1:9/", "seconds", 30, lambda _: None)


def test_a_server_that_is_not_ready_in_time_is_ended_and_the_setting_named(tmp_path: Path) -> None:
    log = tmp_path / "log"
    child = Child([sys.executable, "-c", "import time; print('loading', flush=True); time.sleep(60)"], {}, log)
    deadline = time.monotonic() + 60
    while "loading" not in log.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    with pytest.raises(ServerError, match=r"ready after \d+ s \(last in .*: loading\): raise engine.start_seconds"):
        child.await_ready("http://127.0.0.1:9/", "engine.start_seconds", 0, lambda _: None)
    with pytest.raises(ServerError, match="ended with code"):
        child.check()


def test_the_server_is_not_led_to_our_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has an interpreter and packages of its own, and starts in a folder that may hold a `vllm` or a `torch`."""
    monkeypatch.setenv("PYTHONPATH", "/ours")
    child = Child([sys.executable, "-c", "import sys; print(sys.path)"], {}, tmp_path / "log")
    while True:
        try:
            child.check()
        except ServerError:
            break
        time.sleep(0.05)
    child.close()
    written = (tmp_path / "log").read_text()
    assert "/ours" not in written
    assert "''" not in written
    assert "site-packages" in written


if __name__ == "__main__":
    _child, _ = start(Path(sys.argv[1]))
    (Path(sys.argv[1]) / "ready").write_text(str(os.getpid()))
    time.sleep(600)
