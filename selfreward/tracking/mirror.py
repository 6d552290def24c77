"""The loop on its way, mirrored on the console, in W&B, in the report and in the run's folder."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from selfreward.config import RunConfig
from selfreward.tracking.console import RunConsole, final_table
from selfreward.tracking.dashboard import Dashboard, resolve_mode
from selfreward.tracking.metrics import Iteration
from selfreward.tracking.run_folder import is_linked, is_shown, link, mark, note_shown, write_cards

REPORT = "report.html"
WHERE = ("WANDB_PROJECT", "WANDB_ENTITY", "WANDB_BASE_URL", "WANDB_RUN_ID", "WANDB_RUN_GROUP")
"""What the environment may say of the place in W&B where a run is logged."""


def mirror(
    cfg: RunConfig, settings: Mapping[str, Any], folder: Path, console: RunConsole, steps: Iterator[Iteration]
) -> list[Iteration]:
    """Go through the iterations of `steps`, and show each as it is done. Of a run that found all complete, only what
    does not show it yet is written."""
    group = cfg.name if folder.resolve() == Path(cfg.output_dir).resolve() else f"{cfg.name}/{folder.name}"
    dashboard = Dashboard(folder, cfg.tracking, group, settings, console.say)
    iterations: list[Iteration] = []
    logged = 0
    try:
        console.heading(0, cfg.iteration)
        for number, iteration in enumerate(steps):
            iterations.append(iteration)
            console.iteration(number, iteration)
            if console.computed and 0 < number < cfg.iteration:
                logged = _log(dashboard, iterations, logged)
                if cfg.tracking.report:
                    _report(cfg, settings, folder, iterations)
                _link(folder, iterations)
            if number < cfg.iteration:
                console.heading(number + 1, cfg.iteration)
        place = [resolve_mode(cfg.tracking.wandb), cfg.tracking.project, *map(os.environ.get, WHERE)]
        logged_as = mark(iterations, cfg.tracking.examples, *place)
        if console.computed or not is_shown(folder, "wandb", logged_as):
            _log(dashboard, iterations, logged)
        if cfg.tracking.report and (console.computed or not _is_reported(cfg, settings, folder, iterations)):
            _report(cfg, settings, folder, iterations)
        if console.computed or not is_linked(folder, iterations):
            _link(folder, iterations)
    except BaseException:
        dashboard.finish(failed=True)
        raise
    dashboard.finish(failed=False)
    if dashboard.has_all:
        note_shown(folder, "wandb", logged_as)
    console.say("", final_table(iterations))
    if not console.computed:
        console.say(f"All of policy {cfg.iteration} was there already: nothing was computed.")
    if cfg.tracking.report:  # an older one may be of other settings
        console.say(f"report  {folder / REPORT}")
    console.say(f"run     {folder}")
    return iterations


def _log(dashboard: Dashboard, iterations: Sequence[Iteration], logged: int) -> int:
    """Log all iterations but the first `logged`; how many are logged now."""
    for number in range(logged, len(iterations)):
        dashboard.log(number, iterations[number])
    return len(iterations)


def _report(cfg: RunConfig, settings: Mapping[str, Any], folder: Path, iterations: Sequence[Iteration]) -> None:
    from selfreward.tracking.report import write_report  # a finished run does without jinja2 and matplotlib

    title = f"{cfg.name}: policy {len(iterations) - 1}"
    write_report(folder / REPORT, title, settings, iterations, cfg.tracking.examples)
    note_shown(folder, "report", mark(iterations, settings))


def _is_reported(cfg: RunConfig, settings: Mapping[str, Any], folder: Path, iterations: Sequence[Iteration]) -> bool:
    return (folder / REPORT).exists() and is_shown(folder, "report", mark(iterations, settings))


def _link(folder: Path, iterations: Sequence[Iteration]) -> None:
    write_cards(folder, iterations)
    link(folder, iterations)
