"""What a container or a batch job lets this process have: the limits of Linux's control groups, version 2."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")


def limits(name: str, root: Path = _ROOT, own: Path = _OWN) -> list[str]:
    """What the file of that name says in this process's group and in those around it, whose limits hold for it too, the
    innermost first. Empty where there are no such groups.
    """
    lines: list[str] = []
    with suppress(OSError):
        lines = own.read_text().splitlines()
    path = next((line.removeprefix("0::") for line in lines if line.startswith("0::")), "/")
    group = root / path.strip("/")
    found: list[str] = []
    for folder in [group, *group.parents]:
        with suppress(OSError):
            found.append((folder / name).read_text())
        if folder == root:
            break
    return found
