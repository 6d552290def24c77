"""An error as one line that says each thing once."""

from __future__ import annotations

import pytest

from selfreward.errors import ConfigError
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
