"""experiments/over_seeds.py takes the mean of runs that differ in their seeds alone, and of no others."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest

OVER_SEEDS = runpy.run_path(str(Path(__file__).parents[2] / "experiments" / "over_seeds.py"))


def unlike(tmp_path: Path, *runs: dict[str, Any]) -> str | None:
    found: list[Any] = []
    for number, given in enumerate(runs):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(given))
        found.append(OVER_SEEDS["settings"](folder))
    return OVER_SEEDS["unlike"](found)


def run(seed: int, beta: float = 0.1, **more: Any) -> dict[str, Any]:
    return {"seed": seed, "name": f"seed-{seed}", "train": {"beta": beta}, "memory": {"micro_batch": seed}} | more


def test_runs_that_differ_in_seed_place_and_how_they_were_cut_are_taken_together(tmp_path: Path) -> None:
    assert unlike(tmp_path, run(0), run(1), run(2)) is None


def test_runs_of_other_settings_are_refused(tmp_path: Path) -> None:
    assert unlike(tmp_path, run(0), run(1, beta=0.2)) == (
        "the runs differ in train.beta (0.1, 0.2): name runs that differ in their seeds alone"
    )


def test_one_seed_twice_is_refused(tmp_path: Path) -> None:
    assert str(unlike(tmp_path, run(0), run(1), run(0, name="again"))).startswith("two runs have seed=0:")


@pytest.mark.parametrize(
    ("values", "said"), [([0.5], ""), ([0.0, 1.0], " [-5.853, 6.853]"), ([0.5] * 3, " [0.5, 0.5]")]
)
def test_the_interval_of_a_mean_is_student_s(values: list[float], said: str) -> None:
    assert OVER_SEEDS["over_seeds"](values) == said


def test_what_a_run_did_not_measure_has_no_value() -> None:
    assert OVER_SEEDS["value"]({}, "agreement.agreement") is None
    assert OVER_SEEDS["shown"]({}, "agreement.agreement") == "not measured"
