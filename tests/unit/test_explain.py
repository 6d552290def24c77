"""An error as one line that says each thing once."""

from __future__ import annotations

import gc
import pickle
import weakref

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from selfreward.errors import ConfigError, LaunchError, NoPairsError, SelfRewardError
from selfreward.explain import explain, let_go


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


def test_a_value_that_hydra_can_not_read_is_named_with_how_to_quote_it() -> None:
    with pytest.raises(HydraException) as caught:
        OverridesParser.create().parse_overrides(["model.name=~/models/llama"])
    said = """model.name=~/models/llama: can't be read; put the value in quotes of its own, "model.name='...'\""""
    assert explain(caught.value) == said


def test_an_error_that_is_kept_keeps_nothing_that_was_at_work() -> None:
    """A sweep keeps its points' errors to the end: each would keep a model."""

    class Model:
        pass

    def work() -> None:
        model = Model()
        held.append(weakref.ref(model))
        try:
            raise ValueError("inside")
        except ValueError as inner:
            raise OSError("no room") from inner

    held: list[weakref.ref[Model]] = []
    with pytest.raises(OSError, match="no room") as caught:
        work()
    assert held[0]() is not None
    let_go(caught.value)
    gc.collect()
    assert held[0]() is None


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
