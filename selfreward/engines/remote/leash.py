"""A command that ends with the process that started it, however that one ends: `python leash.py GRACE COMMAND...`

Standard input is the leash: a pipe whose other end the starter alone holds. When it closes it, or dies of whatever
cause, SIGKILL too, the command and all its descendants are ended. Imports nothing of the project, so it starts at once.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from types import FrameType

_REAP_SECONDS = 20.0  # for killed descendants to be gone; one in a process group of its own may stay
_PR_SET_CHILD_SUBREAPER = 36  # of Linux's prctl: descendants whose parent dies become ours, to be waited for


def main(grace: float, command: list[str]) -> int:
    """Run `command` to its end, or to the leash's. Returns its exit code once no descendant of it is left.

    It is given `grace` seconds to end by itself before it is killed.
    """
    signal.signal(signal.SIGTERM, _stop)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, process_group=0)
    try:
        while child.poll() is None and not select.select([sys.stdin], [], [], 0.1)[0]:
            pass
    finally:
        _end(child, grace)
    return child.returncode


def _end(child: subprocess.Popen[bytes], grace: float) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the end must not be interrupted
    if child.poll() is None:
        _signal_all(child.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            child.wait(grace)
    _signal_all(child.pid, signal.SIGKILL)
    child.wait()
    deadline = time.monotonic() + _REAP_SECONDS
    while time.monotonic() < deadline:
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                time.sleep(0.02)
        except ChildProcessError:
            return


def _signal_all(group: int, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):  # all gone; macOS says the second of zombies
        os.killpg(group, number)


def _stop(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), sys.argv[2:]))
