"""The errors a person may see. Each is one line: what is wrong, and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


class SelfRewardError(Exception):
    """Base of all errors that the command line prints as one line."""

    exit_code = 1


class ConfigError(SelfRewardError):
    """A setting that can't be used: found before any model loads."""

    exit_code = 2

    def __init__(self, key: str, value: object, remedy: str) -> None:
        super().__init__(f"{key}={_shown(value)}: {remedy}")
        self.key = key
        self.value = value
        self.remedy = remedy

    def __reduce__(self) -> tuple[type[ConfigError], tuple[str, object, str]]:
        """To be made again from these: a sweep's launcher sends errors from process to process."""
        return type(self), (self.key, self.value, self.remedy)


def first_line(error: BaseException) -> str:
    """The first line of what an error says, or its type where it says nothing."""
    return (str(error) or type(error).__name__).splitlines()[0]


def counted(reasons: Mapping[str, int]) -> str:
    """How often each reason came up, as one says it: `3 is null, 1 is empty`."""
    return ", ".join(f"{count} {reason}" for reason, count in reasons.items())


def no_such_file(key: str, path: Path) -> ConfigError:
    """For a setting that names a file which is not there."""
    return ConfigError(key, path, f"there is no such file (looked in {path.absolute().parent}); name one")


class DataError(SelfRewardError):
    """A row of a data file that can't be used: its place, what is wrong with it, and the remedy."""


class IdentityError(SelfRewardError):
    """A value that has no canonical form, so it can't be part of an artifact's identity."""


class ArtifactError(SelfRewardError):
    """An artifact whose files are not those that its manifest names."""


class ModelError(SelfRewardError):
    """A model, tokenizer or adapter that can't be fetched, read or used."""


class JudgeError(SelfRewardError):
    """A judge that does not keep to what is asked of one."""


class VerdictError(SelfRewardError):
    """A judge's reply that holds no verdict. Counted as missing data, never as a score."""


class GenerationError(SelfRewardError):
    """Fewer prompts than an iteration takes: a policy writes too little, or the gate lets nothing through."""


class ContaminationError(SelfRewardError):
    """Prompts to learn from that hold what policies are evaluated on."""


class NoPairsError(SelfRewardError):
    """An iteration in which no preference pair survived."""


class TrainingError(SelfRewardError):
    """Training that would be silently wrong: no trainable parameters, or a start away from the reference."""


class ParityError(SelfRewardError):
    """An engine whose log-probabilities are not those that training computes under the same policy."""


class OutOfMemoryError(SelfRewardError):
    """Work that does not fit into the memory it may take."""


class ServerError(SelfRewardError):
    """A server that does not answer, or not what was asked, or that can't be started."""


class BusyError(SelfRewardError):
    """Another process is at work in the same run folder."""


class LaunchError(SelfRewardError):
    """A run over several processes of which one failed: its line, and its exit code."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class PeerError(SelfRewardError):
    """Another process of the same run has ended; why, it has said itself."""


def _shown(value: object) -> str:
    """A value as one writes it on the command line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)
