"""What a person sees while a run goes on: a bar for the stage at work, a line for each done, a table an iteration.

Where no terminal can show a bar, as in a batch job's log, there is a line a minute in its place.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, SpinnerColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from selfreward.cap import GIB
from selfreward.store import Manifest
from selfreward.tracking.descriptions import describe, judged_by
from selfreward.tracking.metrics import Iteration, conclusion, cost, pass_metrics, summary
from selfreward.tracking.numbers import NOT_MEASURED, decimal, percent

_PIPE_WIDTH = 110  # where no terminal says how wide it is
_LINE_SECONDS = 60  # between lines about a stage at work, where no terminal can show a bar
_SPEED_SECONDS = 300  # of the latest work, from which what is left is reckoned
_BARS = " ▁▂▃▄▅▆▇█"


class RunConsole:
    """Shows a run on the terminal and keeps the same lines in `log`. It is the store's observer."""

    def __init__(self, log: Path, console: Console | None = None) -> None:
        width = None if sys.stdout.isatty() else _PIPE_WIDTH
        self._screen = console or Console(highlight=False, markup=False, emoji=False, width=width)
        self._file = log.open("a", encoding="utf-8")
        self._log = Console(file=self._file, width=_PIPE_WIDTH, highlight=False, markup=False, emoji=False)
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._unit = ""
        self._began = self._spoke = 0.0
        self._tokens = 0
        self._reused = 0
        self.computed = 0

    def close(self) -> None:
        self._end_progress()
        self._file.close()

    def say(self, *lines: RenderableType) -> None:
        """Print on the terminal and into the log. A line stays one, however long: people search for it."""
        for line in lines:
            is_line = isinstance(line, (str, Text))
            self._screen.print(line, soft_wrap=is_line)
            self._log.print(line, soft_wrap=is_line)
        self._file.flush()

    def heading(self, iteration: int, last: int) -> None:
        """Say which iteration begins."""
        text = "policy 0, where the loop begins" if iteration == 0 else f"iteration {iteration} of {last}"
        self.say(Text(f"\n{text}", style="bold"))

    def iteration(self, number: int, iteration: Iteration) -> None:
        """Close an iteration: say what was reused, and show what it came to."""
        self._say_reused()
        if number:
            self.say(iteration_table(iteration))
        elif agreed := agreement(iteration):
            self.say(f"  its judge and people: {agreed}")

    def waiting(self, stage: str, artifact_id: str) -> None:
        self.say(Text(f"  {stage:<16}{artifact_id}  another process is making it; waiting", style="yellow"))

    def started(self, stage: str, artifact_id: str) -> None:
        self._say_reused()
        self._began = self._spoke = time.perf_counter()
        self._tokens = 0
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description:<16}"),
            BarColumn(bar_width=30),
            TextColumn("{task.percentage:>3.0f} %  {task.fields[speed]}"),
            TimeRemainingColumn(compact=True),
            TextColumn("left"),
            console=self._screen,
            speed_estimate_period=_SPEED_SECONDS,
            transient=True,
            disable=not self._screen.is_terminal,
        )
        self._task = self._progress.add_task(stage, total=None, speed="")
        self._progress.start()

    def planned(self, units: float, unit: str) -> None:
        self._unit = unit
        if self._progress and self._task is not None:
            self._progress.update(self._task, total=units)

    def advanced(self, units: float, tokens: int) -> None:
        self._tokens += tokens
        if not self._progress or self._task is None:
            return
        now = time.perf_counter()
        speed = f"{self._tokens / (now - self._began):,.0f} tokens/s" if self._tokens else ""
        self._progress.update(self._task, advance=units, speed=speed)
        if not self._screen.is_terminal and now - self._spoke >= _LINE_SECONDS:
            self._spoke = now
            self.say(Text(f"  {_at_work(self._progress.tasks[self._task], self._unit)}", style="dim"))

    def noted(self, text: str) -> None:
        self.say(Text(f"  {text}", style="yellow"))

    def finished(self, manifest: Manifest, *, reused: bool) -> None:
        if reused:
            self._reused += 1
            return
        self._end_progress()
        self.computed += 1
        speed = manifest.cost.tokens / manifest.cost.seconds if manifest.cost.tokens else 0
        timing = f"{manifest.cost.seconds:6.1f} s" + (f" {speed:6,.0f} tokens/s" if speed else " " * 16)
        self.say(Text(f"  {manifest.stage:<16}{timing}  {describe(manifest)}  {manifest.id}"))

    def _say_reused(self) -> None:
        if self._reused:
            plural = "artifact" if self._reused == 1 else "artifacts"
            self.say(Text(f"  {self._reused} {plural} reused", style="dim"))
        self._reused = 0

    def _end_progress(self) -> None:
        if self._progress:
            self._progress.stop()
        self._progress = self._task = None


def _at_work(task: Task, unit: str) -> str:
    """How far a stage is, how fast, and how long it will take."""
    done = f"{task.percentage:.0f} % of {task.total:,.0f} {unit}" if task.total else ""
    left = "" if task.time_remaining is None else f"{math.ceil(task.time_remaining / 60)} min left"
    return f"{task.description:<16}" + ", ".join(part for part in (done, task.fields["speed"], left) if part)


def iteration_table(iteration: Iteration) -> Table:
    """What one iteration came to."""
    values = summary(iteration)
    judged = iteration["judgements"].metrics
    judge, of_duels = (judged_by(iteration[name].manifest) for name in ("judgements", "evaluation"))
    rows = {
        "pairs": f"{values['pairs/pairs']:.0f} from {percent(values['pairs/yield'])} of prompts, "
        f"{percent(values['pairs/tie_rate'])} ties, "
        f"{percent(values['judgements/parse_failure_rate'])} of judgements unreadable",
        "scores": f"0 {sparkline(judged['score_histogram'])} {judged['highest_score']:g}, "
        f"mean {decimal(values.get('judgements/mean_score'))}{judge}",
        "lengths": f"chosen {values['pairs/chosen_tokens']:.0f} tokens, rejected {values['pairs/rejected_tokens']:.0f}",
        "training": _training(values),
        "win rate": f"{win_rate(iteration)} over policy 0{of_duels}: {conclusion(iteration['evaluation'].metrics)}; "
        f"by length alone {percent(values['evaluation/length_win_rate'])}, "
        f"at equal length {_shares(iteration['evaluation'].metrics, 'controlled_win_rate')}",
        "cost": f"{values['cost/seconds']:.0f} s, {values['cost/tokens']:,.0f} tokens, "
        f"{decimal(values.get('cost/peak_memory_gib'), 1)} GiB at most",
        "memory": _memory(values),
    }
    if passing := pass_rate(iteration):
        rows["pass rate"] = passing
    if agreed := agreement(iteration):
        rows["people"] = agreed
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 1, 0, 1))
    table.add_column(style="bold", no_wrap=True, min_width=10)
    table.add_column()
    for name, value in rows.items():
        table.add_row(f" {name}", value)
    return table


def _training(values: Mapping[str, float]) -> str:
    """What training came to. A step's figures are of before it was taken, so one step alone has none but its loss."""
    if "train/loss_last" not in values:
        return f"loss {values['train/loss_first']:.3f} before the one step that was taken"
    return (
        f"loss {values['train/loss_first']:.3f} to {values['train/loss_last']:.3f}, "
        f"reward margin {values['train/reward_margin']:+.3f}, accuracy {percent(values['train/reward_accuracy'])}"
    )


def _memory(values: Mapping[str, float]) -> str:
    """The peaks beside the plan, in GiB."""
    phases = {"sampling": "candidates", "scoring": "judgements", "references": "references", "training": "policy"}
    shown = [
        f"{phase} {values[f'memory/{part}_gib']:.1f} of {values[f'memory/{part}_planned_gib']:.1f}"
        for phase, part in phases.items()
        if f"memory/{part}_gib" in values
    ]
    return ", ".join(shown) + " GiB planned" if shown else "not planned"


def final_table(iterations: Sequence[Iteration]) -> Table:
    """One row an iteration."""
    columns: dict[str, Callable[[Iteration, dict[str, float]], str]] = {
        "pairs": lambda _, values: decimal(values.get("pairs/pairs"), 0),
        "ties": lambda _, values: percent(values.get("pairs/tie_rate")),
        "loss": lambda _, values: decimal(values.get("train/loss_last"), 3),
        "margin": lambda _, values: decimal(values.get("train/reward_margin"), 3),
        "score": lambda _, values: _score(values),
        "tokens": lambda _, values: decimal(values.get("evaluation/mean_tokens"), 0),
        "win rate": lambda iteration, _: win_rate(iteration),
        "time": lambda iteration, _: f"{cost(iteration).seconds:.0f} s",
        "memory": lambda iteration, _: f"{cost(iteration).peak_memory_bytes / GIB:.1f} GiB",
    }
    if any(map(pass_metrics, iterations)):
        columns["passes"] = lambda _, values: percent(values.get("evaluation/pass_rate"))
    if any("agreement" in iteration for iteration in iterations):
        columns["people"] = lambda _, values: percent(values.get("agreement/agreement"))
    table = Table(box=SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for name in ("policy", *columns):
        table.add_column(name, justify="right", no_wrap=True)
    for number, iteration in enumerate(iterations):
        values = summary(iteration)
        table.add_row(str(number), *(show(iteration, values) for show in columns.values()))
    return table


def _score(values: Mapping[str, float]) -> str:
    """The mean score of held-out answers, and of how many it is where not all have one."""
    scored, answers = values["evaluation/scored"], values["evaluation/answers"]
    of = f" ({scored:.0f} of {answers:.0f})" if 0 < scored < answers else ""
    return decimal(values.get("evaluation/mean_score")) + of


def win_rate(iteration: Iteration) -> str:
    """A win rate with its interval."""
    return _shares(iteration["evaluation"].metrics, "win_rate")


def _shares(metrics: Mapping[str, Any], name: str) -> str:
    """A share with its interval; a dash where it was not measured."""
    if metrics.get(name) is None:
        return NOT_MEASURED
    low, high = metrics[f"{name}_low"], metrics[f"{name}_high"]
    return percent(metrics[name]) + ("" if low is None else f" [{100 * low:.0f}, {100 * high:.0f}]")


def pass_rate(iteration: Iteration) -> str:
    """The share of held-out answers that pass their checks, and the gain on policy 0; empty where none has any."""
    metrics = pass_metrics(iteration)
    if not metrics:
        return ""
    rates = {name.removeprefix("pass_rate/"): rate for name, rate in metrics.items() if name.startswith("pass_rate/")}
    apart = [f"{percent(rate)} {category}" for category, rate in rates.items()]
    text = percent(metrics["pass_rate"]) + (f" ({', '.join(apart)})" if len(apart) > 1 else "")
    if "pass_gain" in metrics:
        low, high = 100 * metrics["pass_gain_low"], 100 * metrics["pass_gain_high"]
        text += f", {100 * metrics['pass_gain']:+.0f} points [{low:+.0f}, {high:+.0f}] on policy 0"
        text += "" if metrics["pass_gain_shown"] else ": nothing was shown"
    return text


def agreement(iteration: Iteration) -> str:
    """How far the policy's judge agrees with people, beside a judge that prefers the longer answer; empty where no
    ratings of theirs are there."""
    if "agreement" not in iteration:
        return ""
    metrics = iteration["agreement"].metrics
    parts = [
        f"{_shares(metrics, f'agreement{kind}')} of "
        f"{metrics[f'pairs{kind}']} pairs{of} agree, by length {percent(metrics[f'longer_agreement{kind}'])}"
        for kind, of in (("", ""), ("_alike", " of like length"))
        if metrics[f"pairs{kind}"]
    ]
    if metrics["unscored"]:
        parts.append(f"{metrics['unscored']} of {metrics['answers']} answers have no score")
    return "; ".join(parts)


def sparkline(counts: Sequence[int]) -> str:
    """Counts as a row of bars; a count above zero always shows."""
    highest = max(counts, default=0)
    return "".join(_BARS[-(-count * 8 // highest) if highest else 0] for count in counts)
