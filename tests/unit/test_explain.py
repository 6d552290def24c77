"""An error as one line that says each thing once."""

from __future__ import annotations

import pickle

import pytest

from selfreward.errors import ConfigError, LaunchError, NoPairsError, SelfRewardError
from selfreward.explain import explain


def raised(error: Exception, cause: Exception) -> Exception:
    with pytest.raises(type(error)) as caught:
        raise error from cause
    return caught.value


def test_an_error_of_ours_says_all_of_it_and_what_caused_it_is_not_said_again() -> None:
    cause = FileNotFoundError(2, "No such file or directory", "/proc/nothing")
    error = ConfigError("output_dir", "/proc/nothing", f"can't be written ({cause.strerror}); choose another folder")
    line = "output_dir=/proc/nothing: can't be written (No such file or directory); choose another folder"
    assert explain(raised(error, cause)) == line


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("could not connect", "could not connect: the name is unknown"),
        ("could not connect: the name is unknown", "could not connect: the name is unknown"),
    ],
)
def test_what_caused_an_error_of_a_librarys_is_added_where_it_is_not_said(text: str, line: str) -> None:
    assert explain(raised(OSError(text), OSError("the name is unknown"))) == line


@pytest.mark.parametrize(
    "error", [ConfigError("train.beta", 0, "use more"), NoPairsError("no pair"), LaunchError("one failed", 137)]
)
def test_an_error_is_the_same_in_another_process(error: SelfRewardError) -> None:
    """A sweep's launcher sends it there."""
    found = pickle.loads(pickle.dumps(error))
    assert (type(found), str(found), vars(found), found.exit_code) == (
        type(error),
        str(error),
        vars(error),
        error.exit_code,
    )
