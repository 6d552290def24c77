"""What a run says while a stage is at work."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from selfreward.tracking import console as module
from selfreward.tracking.console import RunConsole


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time in seconds, for the console and for what its bar reckons with."""
    now = [1000.0]
    monkeypatch.setattr(module.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr("rich.console.monotonic", lambda: now[0])
    return now


def at_work(log: Path, clock: list[float], screen: Console) -> str:
    """What is in the log of a stage of 40 steps, of which 25 are done: five at once, then one each ten seconds."""
    console = RunConsole(log, screen)
    console.started("policies", "0a1b2c")
    console.planned(40, "steps")
    console.advanced(5, 0)  # done by an earlier attempt
    for _ in range(20):
        clock[0] += 10
        console.advanced(1, 3000)
    console.close()
    return log.read_text()


def test_without_a_terminal_a_line_a_minute_says_how_far_a_stage_is(tmp_path: Path, clock: list[float]) -> None:
    pipe = Console(file=io.StringIO(), width=110)
    lines = at_work(tmp_path / "run.log", clock, pipe).splitlines()
    assert lines == [
        "  policies        28 % of 40 steps, 300 tokens/s, 5 min left",
        "  policies        42 % of 40 steps, 300 tokens/s, 4 min left",
        "  policies        57 % of 40 steps, 300 tokens/s, 3 min left",
    ]
    assert pipe.file.getvalue().splitlines() == lines  # pyright: ignore[reportAttributeAccessIssue]


def test_a_terminal_has_the_bar_and_the_log_no_lines_of_it(tmp_path: Path, clock: list[float]) -> None:
    terminal = Console(file=io.StringIO(), width=110, force_terminal=True)
    assert at_work(tmp_path / "run.log", clock, terminal) == ""


def test_what_people_call_things_is_shown_as_they_call_it(tmp_path: Path) -> None:
    console = RunConsole(tmp_path / "run.log")
    console.say("outputs/[bold]/a", "  passes  50 % ([/x] 40 %, :warning: 60 %)")
    console.close()
    assert (tmp_path / "run.log").read_text() == "outputs/[bold]/a\n  passes  50 % ([/x] 40 %, :warning: 60 %)\n"


def test_a_line_stays_one_however_long_and_wherever_it_goes(tmp_path: Path) -> None:
    pipe = Console(file=io.StringIO(), width=40)
    console = RunConsole(tmp_path / "run.log", pipe)
    lines = [
        f"report  {'/a/long/way' * 20}/report.html",
        "  judgements  7.5 s  48 of 48 scored, by somebody  0a1b2c" * 3,
    ]
    console.say(*lines)
    console.close()
    assert (tmp_path / "run.log").read_text().splitlines() == lines
    assert pipe.file.getvalue().splitlines() == lines  # pyright: ignore[reportAttributeAccessIssue]
