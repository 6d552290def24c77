"""A metric of runs that differ in their seeds alone, and its mean over them.

    python experiments/over_seeds.py agreement.agreement outputs/one outputs/two outputs/three

Names are `<artifact>.<metric>`, several joined by commas; each run's last iteration counts, or that of `--iteration`.
Intervals, where the metric has one, are those of a single run. The last line has the mean, its 95 % interval over seeds
(Student's t: chance in all that a seed decides, which is training and what is sampled, to learn from and to be
evaluated), and all values; a run in which the metric has none is no part of it. Runs that differ in more than their
seeds, or not even in these, are refused; where they ran, and how their work was cut, may differ.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from scipy.stats import t as student_t

from selfreward.tracking.metrics import Iteration
from selfreward.tracking.report import flatten
from selfreward.tracking.run_folder import LINEAGE, SETTINGS_FILE, linked

NO_RESULT = {"name", "output_dir", "artifacts_dir", "iteration", "memory", "speed", "tracking", "launch"}
"""Settings and groups of them that say where a run goes, how far, and how its work is cut."""


def main() -> None:
    """Print one line a run and metric."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("metrics")
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--iteration", type=int)
    arguments = parser.parse_args()
    if complaint := unlike([settings(run) for run in arguments.runs]):
        parser.error(complaint)
    ends = {run: last(run) for run in arguments.runs}
    if arguments.iteration is None and len({*ends.values()}) > 1:
        said = ", ".join(f"{run.name} {end}" for run, end in ends.items())
        parser.error(f"the runs end at different iterations ({said}): name one by --iteration")
    made = {run: linked(run, ends[run] if arguments.iteration is None else arguments.iteration) for run in ends}
    for name in arguments.metrics.split(","):
        values = [one for iteration in made.values() if (one := value(iteration, name)) is not None]
        for run, iteration in made.items():
            print(f"{name}  {run.name}  {shown(iteration, name)}")
        if not values:
            continue
        print(f"{name}  mean {fmean(values):.4g}{over_seeds(values)}  of {', '.join(f'{one:.4g}' for one in values)}")


def settings(run: Path) -> dict[str, Any]:
    """A run's settings by their dotted keys, but for those that change no result."""
    given = json.loads((run / SETTINGS_FILE).read_text())
    return {key: value for key, value in flatten(given) if key.partition(".")[0] not in NO_RESULT}


def unlike(runs: Sequence[Mapping[str, Any]]) -> str | None:
    """What is wrong with taking runs of these settings for one method over several seeds; None where nothing is."""
    seeds = [run["seed"] for run in runs]
    if twice := next((seed for seed in seeds if seeds.count(seed) > 1), None):
        return f"two runs have seed={twice}: they are one and the same, or differ in more than their seeds"
    for key in sorted({key for run in runs for key in run} - {"seed"}):
        if len(values := {run.get(key) for run in runs}) > 1:
            said = ", ".join(sorted(map(str, values)))
            return f"the runs differ in {key} ({said}): name runs that differ in their seeds alone"
    return None


def over_seeds(values: Sequence[float]) -> str:
    """The 95 % interval of the values' mean, by Student's t; nothing where there are fewer than two."""
    if len(values) < 2:
        return ""
    half = float(student_t.ppf(0.975, len(values) - 1)) * stdev(values) / math.sqrt(len(values))
    return f" [{fmean(values) - half:.4g}, {fmean(values) + half:.4g}]"


def last(run: Path) -> int:
    """The last iteration of a run."""
    return len(json.loads((run / LINEAGE).read_text())) - 1


def value(iteration: Iteration, name: str) -> float | None:
    """A metric by its name; None where there was nothing to measure."""
    artifact, metric = name.split(".")
    return iteration[artifact].metrics.get(metric) if artifact in iteration else None


def shown(iteration: Iteration, name: str) -> str:
    """The same with its interval."""
    artifact, metric = name.split(".")
    metrics = iteration[artifact].metrics if artifact in iteration else {}
    measure, slash, kind = metric.partition("/")  # the ends of an interval are named before the category
    low, high = (f"{measure}_{end}{slash}{kind}" for end in ("low", "high"))
    if metrics.get(metric) is None:
        return "not measured"
    if metrics.get(low) is None:
        return f"{metrics[metric]:.4g}"
    return f"{metrics[metric]:.4g} [{metrics[low]:.4g}, {metrics[high]:.4g}]"


if __name__ == "__main__":
    main()
