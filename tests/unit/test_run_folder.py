"""The folder of a run: links by name to what it is made of, and nothing of what it was before."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from selfreward.errors import BusyError, NoPairsError
from selfreward.tracking.run_folder import (
    CARD,
    LOG,
    ending_logged,
    is_shown,
    link,
    linked,
    mark,
    note_shown,
    write_cards,
)
from tests.unit.reporting import Maker


def test_links_lead_to_the_artifacts_where_links_lie_on_the_way(tmp_path: Path) -> None:
    disk = tmp_path / "a" / "large" / "disk"
    disk.mkdir(parents=True)
    (tmp_path / "outputs").symlink_to(disk)
    artifact = Maker(tmp_path / "artifacts").artifact("policies", {})
    artifact.manifest.write(artifact.path)
    run = tmp_path / "outputs" / "run"
    link(run, [{"policy": artifact}])
    assert linked(run, 0)["policy"].path.resolve() == artifact.path


def test_of_a_longer_run_before_nothing_stays_but_what_a_person_put_there(tmp_path: Path) -> None:
    maker = Maker(tmp_path / "artifacts")
    run, iterations = tmp_path / "run", [{"policy": maker.artifact("policies", {})} for _ in range(4)]
    link(run, iterations)
    for number in (1, 2, 3):
        (run / "iterations" / f"{number}" / CARD).write_text("# Prompts")
    (run / "iterations" / "3" / "notes.txt").write_text("Mine.")
    link(run, iterations[:2])
    left = sorted(str(path.relative_to(run / "iterations")) for path in (run / "iterations").rglob("*"))
    assert left == ["0", "0/policy", "1", f"1/{CARD}", "1/policy", "3", "3/notes.txt"]


def test_a_card_of_data_that_is_learned_from_no_more_goes(tmp_path: Path) -> None:
    card = tmp_path / "iterations" / "0" / CARD
    card.parent.mkdir(parents=True)
    card.write_text("# What people wrote")
    write_cards(tmp_path, [Maker(tmp_path / "artifacts").first()])
    assert not card.exists()


def test_the_error_that_ends_a_run_stands_at_the_end_of_its_log(tmp_path: Path) -> None:
    (tmp_path / LOG).write_text("iteration 1 of 1\n")
    with pytest.raises(NoPairsError), ending_logged(tmp_path):
        raise NoPairsError("no preference pair in 4 prompts")
    assert (tmp_path / LOG).read_text() == "iteration 1 of 1\nerror: no preference pair in 4 prompts\n"


def test_a_mistake_of_ours_stands_there_too(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), ending_logged(tmp_path):
        raise RuntimeError("shapes differ\nin many lines")
    assert (tmp_path / LOG).read_text() == "error: RuntimeError: shapes differ; a bug in selfreward\n"


def test_a_process_that_finds_another_at_work_leaves_its_log_alone(tmp_path: Path) -> None:
    with pytest.raises(BusyError), ending_logged(tmp_path):
        raise BusyError("another process is at work")
    assert not (tmp_path / LOG).exists()


def test_of_what_was_shown_wandb_keeps_all_and_a_report_is_the_last(tmp_path: Path) -> None:
    for place in ("wandb", "report"):
        for shown in ("one", "two"):
            note_shown(tmp_path, place, shown)
    assert [is_shown(tmp_path, "wandb", shown) for shown in ("one", "two", "three")] == [True, True, False]
    assert [is_shown(tmp_path, "report", shown) for shown in ("one", "two")] == [False, True]


def test_iterations_are_marked_by_what_they_are_and_how_they_are_shown(tmp_path: Path) -> None:
    maker = Maker(tmp_path)
    one, other = ([{"policy": maker.artifact("policies", {})}] for _ in range(2))
    assert mark(one, 8) == mark(one, 8)
    assert len({mark(one, 8), mark(one, 9), mark(other, 8)}) == 3


def test_an_artifact_made_again_with_other_numbers_is_shown_again(tmp_path: Path) -> None:
    once = Maker(tmp_path).artifact("policies", {"steps": 1})
    again = replace(once, manifest=replace(once.manifest, metrics={"steps": 2}))
    assert once.full_id == again.full_id
    assert mark([{"policy": once}]) != mark([{"policy": again}])
