"""An artifact is made once; what is complete is trusted only as far as its hashes hold."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from selfreward.errors import ArtifactError
from selfreward.records import Prompt
from selfreward.store import Artifact, Manifest, Metrics, Stage, Store, Work, manifest
from selfreward.store.identity import file_sha256
from selfreward.store.manifest import write_atomically
from tests.unit.spelling import SHARDS, Recorder, Words, fail, make, spell

# Made once


def test_an_artifact_is_made_once_and_then_reused(tmp_path: Path) -> None:
    recorder = Recorder()
    made, reused = make(tmp_path, recorder), make(tmp_path, recorder)
    assert recorder.computed == ["a", "b", "c", "d", "e"]
    assert reused == made
    assert reused.read(Prompt) == [prompt for shard in SHARDS for prompt in spell("!", shard)]


def test_other_settings_make_another_artifact_beside_it(tmp_path: Path) -> None:
    recorder, store = Recorder(), Store(tmp_path, None)
    first, second = (store.run(recorder.stage, Words(suffix)) for suffix in "!?")
    assert first.path != second.path
    assert first.read(Prompt) != second.read(Prompt)


def test_a_revision_is_that_of_this_code_and_not_of_a_project_that_it_is_installed_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git = partial(subprocess.run, cwd=tmp_path, check=True, capture_output=True)
    git(["git", "init"])
    git(["git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "--allow-empty", "-m", "theirs"])
    installed = tmp_path / "manifest.py"
    installed.touch()
    monkeypatch.setattr(manifest, "__file__", str(installed))
    assert manifest.git_revision.__wrapped__() is None
    git(["git", "add", "manifest.py"])
    assert (manifest.git_revision.__wrapped__() or "").endswith("+changes")


def test_the_manifest_is_a_full_account(tmp_path: Path) -> None:
    store = Store(tmp_path, None)
    parent = make(tmp_path, Recorder())
    child = store.run(Stage("children", 7, Recorder().function), Words("?"), {"of": parent}, seed=3)
    manifest = child.manifest
    assert Manifest.read(child.path) == manifest
    assert (manifest.stage, manifest.stage_version, manifest.seed) == ("children", 7, 3)
    assert manifest.config == {"suffix": "?"}
    assert manifest.parents == {"of": f"words/{parent.id}"}
    assert manifest.metrics == {"rows": 5}
    assert [entry.rows for entry in manifest.files.values()] == [2, 2, 1]
    assert manifest.cost.tokens == 50
    assert {"python", "pyarrow"} <= manifest.libraries.keys()
    for name, entry in manifest.files.items():
        assert entry.bytes == (child.path / name).stat().st_size
        assert entry.sha256 == file_sha256(child.path / name)


def test_two_roots_get_the_same_bytes(tmp_path: Path) -> None:
    first, second = make(tmp_path / "first", Recorder()), make(tmp_path / "second", Recorder())
    assert first.id == second.id
    assert first.manifest.files == second.manifest.files


def test_a_file_that_a_stage_writes_itself_is_in_the_manifest(tmp_path: Path) -> None:
    def function(config: Words, parents: Mapping[str, Artifact], work: Work, tools: None) -> Metrics:
        (work.folder / "weights.bin").write_bytes(b"weights")
        (work.scratch / "checkpoint.bin").write_bytes(b"unfinished")
        return {}

    artifact = Store(tmp_path, None).run(Stage("files", 1, function), Words())
    assert [*artifact.manifest.files] == ["weights.bin"]
    assert artifact.file("weights.bin").read_bytes() == b"weights"
    assert not (artifact.path / "partial").exists()


# Killed and gone on with


def test_a_stage_that_fails_leaves_no_manifest(tmp_path: Path) -> None:
    folder = fail(tmp_path, "c")
    assert Manifest.read(folder) is None


def test_the_next_attempt_computes_only_the_missing_shards(tmp_path: Path) -> None:
    fail(tmp_path, "c")
    recorder = Recorder()
    artifact = make(tmp_path, recorder)
    assert recorder.computed == ["c", "d", "e"]
    assert artifact.manifest.files == make(tmp_path / "undisturbed", Recorder()).manifest.files


def _die_at_the_last_shard(root: Path) -> None:
    def function(config: Words, parents: Mapping[str, Artifact], work: Work, tools: None) -> Metrics:
        def compute(items: Sequence[str]) -> list[Prompt]:
            return spell("!", items) if "e" not in items else os._exit(9)

        work.shards(SHARDS, compute, Prompt)
        return {}

    Store(root, None).run(Stage("words", 1, function), Words())


def test_a_process_that_dies_leaves_its_shards_and_no_lock(tmp_path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=_die_at_the_last_shard, args=(tmp_path,))
    process.start()
    process.join()
    recorder = Recorder()
    make(tmp_path, recorder)
    assert process.exitcode == 9
    assert recorder.computed == ["e"]


@pytest.mark.parametrize("damage", ["changed", "cut short", "gone", "its note gone", "its note cut short"])
def test_a_shard_that_is_not_whole_is_computed_again(tmp_path: Path, damage: str) -> None:
    folder = fail(tmp_path, "e")
    shard, note = folder / "shard-00001.parquet", folder / "partial" / "shard-00001.json"
    match damage:
        case "changed":
            shard.write_bytes(_flipped(shard.read_bytes()))
        case "cut short":
            shard.write_bytes(shard.read_bytes()[:-1])
        case "gone":
            shard.unlink()
        case "its note gone":  # killed between the two writes
            note.unlink()
        case _:
            note.write_bytes(note.read_bytes()[:10])
    recorder = Recorder()
    artifact = make(tmp_path, recorder)
    assert recorder.computed == ["c", "d", "e"]
    assert artifact.manifest.files == make(tmp_path / "undisturbed", Recorder()).manifest.files


def test_leftovers_of_killed_writes_get_neither_into_the_manifest_nor_stay(tmp_path: Path) -> None:
    folder = fail(tmp_path, "e")
    leftovers = [folder / ".shard-00002.parquet.tmp", folder / ".manifest.json.tmp"]
    for path in leftovers:
        path.write_bytes(b"half a file")
    artifact = make(tmp_path, Recorder())
    assert [*artifact.manifest.files] == [f"shard-0000{i}.parquet" for i in range(3)]
    assert not any(path.exists() for path in leftovers)


def test_an_atomic_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")
    monkeypatch.setattr(os, "fsync", _disk_full)
    with pytest.raises(OSError, match=f"No space left on device: '{path}'"):
        write_atomically(path, b"new and longer")
    assert path.read_bytes() == b"old"


class _Peaks:
    """A meter that says what a test wants."""

    def __init__(self, peak: int) -> None:
        self.peak = peak

    @contextmanager
    def measure(self) -> Iterator[_Peaks]:
        yield self

    def bytes(self) -> int:
        return self.peak


def test_the_cost_of_earlier_attempts_is_kept(tmp_path: Path) -> None:
    folder = fail(tmp_path, "e", meter=_Peaks(700))
    notes = [json.loads(path.read_text()) for path in folder.glob("partial/shard-*.json")]
    cost = make(tmp_path, Recorder(), meter=_Peaks(300)).manifest.cost
    assert cost.tokens == 50
    assert cost.peak_memory_bytes == 700
    assert cost.seconds > sum(note["cost"]["seconds"] for note in notes) > 0


# Damaged after it was made


def test_a_changed_file_is_refused_when_it_is_read_and_the_error_names_it(tmp_path: Path) -> None:
    path = make(tmp_path, Recorder()).path / "shard-00001.parquet"
    path.write_bytes(_flipped(path.read_bytes()))
    artifact = make(tmp_path, Recorder())
    with pytest.raises(ArtifactError, match=rf"{path} was changed after it was made: remove {artifact.path}"):
        artifact.read(Prompt)


@pytest.mark.parametrize("damage", ["cut short", "gone"])
def test_a_file_that_is_cut_short_or_gone_is_refused_at_once_and_the_error_names_it(
    tmp_path: Path, damage: str
) -> None:
    path = make(tmp_path, Recorder()).path / "shard-00001.parquet"
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-1])
    recorder = Recorder()
    with pytest.raises(ArtifactError, match=f"{path} is missing or cut short"):
        make(tmp_path, recorder)
    assert not recorder.computed


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", "null", '{"files": []}', '{"files": {"x": 1}}', '{"files": {}, "cost": {}}']
)
def test_a_manifest_that_can_not_be_read_is_an_error_and_not_an_artifact(tmp_path: Path, content: str) -> None:
    path = make(tmp_path, Recorder()).path / "manifest.json"
    path.write_text(content)
    with pytest.raises(ArtifactError, match=f"{path} can't be read"):
        make(tmp_path, Recorder())


def _family(root: Path, ending: str, *, fails_at: str = "") -> list[Artifact]:
    """A word, its child, and its child's child. The first ends as it is told, of which its settings say nothing, as
    another machine's rounding may change what is drawn."""

    def first(config: Words, parents: Mapping[str, Artifact], work: Work, tools: None) -> Metrics:
        work.shards([["a"]], lambda items: spell(ending, items), Prompt)
        return {}

    def later(config: Words, parents: Mapping[str, Artifact], work: Work, tools: None) -> Metrics:
        words = [prompt.prompt for prompt in parents["of"].read(Prompt)]
        work.shards([words, ["e"]], lambda items: _spell_but(fails_at, items), Prompt)
        return {}

    store = Store(root, None)
    word = store.run(Stage("words", 1, first), Words())
    child = store.run(Stage("children", 1, later), Words(), {"of": word})
    return [word, child, store.run(Stage("grandchildren", 1, later), Words(), {"of": child})]


def _spell_but(fails_at: str, items: Sequence[str]) -> list[Prompt]:
    if fails_at in items:
        raise RuntimeError("killed")
    return spell("", items)


def test_what_was_made_from_files_that_are_no_longer_there_is_refused_with_all_that_comes_of_it(tmp_path: Path) -> None:
    word, child, grandchild = _family(tmp_path, "!")
    shutil.rmtree(word.path)
    damaged = tmp_path / "others" / "0" / "manifest.json"
    damaged.parent.mkdir(parents=True)
    damaged.write_text("{")
    refused = f"{child.full_id} was made from other files of {word.full_id} than are there now: remove {child.path}"
    with pytest.raises(ArtifactError, match=rf"{refused} {grandchild.path} to make again"):
        _family(tmp_path, "?")
    for artifact in (child, grandchild):
        shutil.rmtree(artifact.path)
    assert _family(tmp_path, "?")[2].read(Prompt) == _family(tmp_path / "undisturbed", "?")[2].read(Prompt)


def test_an_artifact_that_is_made_again_alike_keeps_its_children(tmp_path: Path) -> None:
    made = _family(tmp_path, "!")
    shutil.rmtree(made[0].path)
    again = _family(tmp_path, "!")
    assert again[1:] == made[1:]
    assert again[0].manifest.content == made[0].manifest.content


def test_the_same_rows_in_other_bytes_are_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = _family(tmp_path, "!")
    shutil.rmtree(made[0].path)
    write = pq.write_table
    monkeypatch.setattr(pq, "write_table", lambda table, where, **_: write(table, where, compression="none"))
    again = _family(tmp_path, "!")
    assert again[1:] == made[1:]
    assert again[0].manifest.files["shard-00000.parquet"].sha256 != made[0].manifest.files["shard-00000.parquet"].sha256


def test_shards_that_were_made_from_other_files_are_not_taken_up(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="killed"):
        _family(tmp_path, "!", fails_at="e")
    shutil.rmtree(tmp_path / "words")
    assert _family(tmp_path, "?")[1].manifest.files == _family(tmp_path / "undisturbed", "?")[1].manifest.files


def _flipped(data: bytes) -> bytes:
    """The same number of bytes, one of them another."""
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def _disk_full(descriptor: int) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")
