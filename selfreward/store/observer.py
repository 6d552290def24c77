"""What the store tells while stages run. The console implements it; `Silent` is for libraries and tests."""

from __future__ import annotations

from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator

    from selfreward.store.manifest import Manifest


class Observer(Protocol):
    """Hears of every stage, in order; stages don't overlap within a process."""

    def waiting(self, stage: str, artifact_id: str) -> None:
        """Another process is making this artifact; this one waits for it."""
        ...

    def started(self, stage: str, artifact_id: str) -> None:
        """A stage begins to compute."""
        ...

    def planned(self, units: float, unit: str) -> None:
        """The running stage has this much to do."""
        ...

    def advanced(self, units: float, tokens: int) -> None:
        """The running stage has done this much more."""
        ...

    def noted(self, text: str) -> None:
        """Something happened that a person should know of."""
        ...

    def finished(self, manifest: Manifest, *, reused: bool) -> None:
        """The artifact is complete; `reused` where nothing had to be computed."""
        ...


class Silent:
    """An observer that keeps quiet."""

    def waiting(self, stage: str, artifact_id: str) -> None: ...

    def started(self, stage: str, artifact_id: str) -> None: ...

    def planned(self, units: float, unit: str) -> None: ...

    def advanced(self, units: float, tokens: int) -> None: ...

    def noted(self, text: str) -> None: ...

    def finished(self, manifest: Manifest, *, reused: bool) -> None: ...


class Peak(Protocol):
    """The highest memory use, in bytes, since the measurement began."""

    def bytes(self) -> int: ...


class Meter(Protocol):
    """Measures memory while a stage runs."""

    def measure(self) -> AbstractContextManager[Peak]: ...


class NoMeter:
    """A meter that measures nothing."""

    @contextmanager
    def measure(self) -> Iterator[Peak]:
        yield self

    def bytes(self) -> int:
        return 0
