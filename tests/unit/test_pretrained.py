"""Code that comes with a model is never run, and what transformers can't load without it is said in one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from selfreward.config import RunConfig
from selfreward.errors import ModelError
from selfreward.hygiene.clusters import embed
from selfreward.memory.shapes import model_config
from selfreward.model.chat import Chat
from selfreward.model.models import Models
from selfreward.sources import SOURCES
from selfreward.stages.tools import Tools


@pytest.fixture(autouse=True)
def _somebody_says_yes(monkeypatch: pytest.MonkeyPatch) -> None:
    """To the question whether that code may be run."""
    monkeypatch.setattr("builtins.input", lambda _: "y")


@pytest.fixture
def theirs(tiny_model: Path, tmp_path: Path) -> Path:
    """A model that is whole but of a type of its own, with the code for it."""
    folder = shutil.copytree(tiny_model, tmp_path / "theirs")
    classes = {"AutoConfig": "theirs.Config", "AutoModel": "theirs.Model", "AutoModelForCausalLM": "theirs.Model"}
    change(folder / "config.json", model_type="theirs", auto_map=classes)
    (folder / "theirs.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    return folder


def change(file: Path, **settings: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))


def plan(folder: Path, cfg: RunConfig) -> object:
    return Tools(SOURCES[cfg.prompts.kind](cfg.prompts, cfg.data), folder, Path(cfg.output_dir), cfg).plan


@pytest.mark.parametrize(
    "read",
    [
        pytest.param(plan, id="a run's memory plan"),
        pytest.param(lambda folder, _: model_config(str(folder), None), id="the memory plan's command"),
        pytest.param(lambda folder, _: Models(folder, "float32", "cpu").base, id="the model"),
        pytest.param(lambda folder, _: embed(["a text"], str(folder)), id="the model that embeds prompts"),
    ],
)
def test_a_model_that_needs_code_of_its_own_is_refused_in_one_line_and_nobody_is_asked(
    theirs: Path, cfg: RunConfig, tmp_path: Path, read: Callable[[Path, RunConfig], object]
) -> None:
    with pytest.raises(ModelError) as caught:
        read(theirs, cfg)
    assert not (tmp_path / "ran").exists()
    said = str(caught.value)
    assert said.startswith(f"{theirs} can't be loaded (The repository {theirs} contains custom code which must be ")
    assert said.endswith(
        "): take a whole model of a type that transformers knows; code that comes with one is never run"
    )
    assert len(said.splitlines()) == 1


def test_one_of_a_known_type_is_loaded_without_the_code_that_lies_beside_it(theirs: Path, tmp_path: Path) -> None:
    change(theirs / "config.json", model_type="llama")
    assert type(Models(theirs, "float32", "cpu").base).__module__.startswith("transformers.models.llama")
    assert not (tmp_path / "ran").exists()


def test_a_tokenizer_that_needs_code_of_its_own_is_refused_too(theirs: Path, tmp_path: Path) -> None:
    change(
        theirs / "tokenizer_config.json", tokenizer_class="Theirs", auto_map={"AutoTokenizer": [None, "theirs.Theirs"]}
    )
    with pytest.raises(ModelError, match=r"theirs can't be loaded \(The repository .* code that comes with one is ne"):
        Chat(theirs)
    assert not (tmp_path / "ran").exists()


def test_where_the_model_alone_needs_it_an_answer_ends_with_the_tokenizers_own_token(
    theirs: Path, tmp_path: Path
) -> None:
    """As with an outside judge on a server, of which a run needs no more than the tokenizer."""
    (theirs / "generation_config.json").unlink()
    chat = Chat(theirs)
    assert chat.end_ids == [chat.tokenizer.eos_token_id]
    assert not (tmp_path / "ran").exists()


def test_a_model_of_a_type_that_is_not_known_is_refused_in_one_line(theirs: Path, cfg: RunConfig) -> None:
    change(theirs / "config.json", auto_map={})
    with pytest.raises(ModelError) as caught:
        plan(theirs, cfg)
    assert f"{theirs} can't be loaded (The checkpoint you are trying to load has model type `theirs` but" in str(
        caught.value
    )
    assert len(str(caught.value).splitlines()) == 1


def test_a_folder_without_a_tokenizer_is_refused_in_one_line(theirs: Path) -> None:
    for file in theirs.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(ModelError, match=r"^\S+ can't be loaded \([^\n]+\): take a whole model [^\n]+$"):
        Chat(theirs)


@pytest.mark.parametrize("content", ["version https://git-lfs.github.com/spec/v1\n", '{"version": "1.0"}'])
def test_a_tokenizer_that_is_cut_short_is_refused_in_one_line(tiny_model: Path, tmp_path: Path, content: str) -> None:
    folder = shutil.copytree(tiny_model, tmp_path / "cut")
    (folder / "tokenizer.json").write_text(content)
    with pytest.raises(ModelError, match=r"^\S+ can't be loaded \([^\n]+\): take a whole model [^\n]+$"):
        Chat(folder)


@pytest.mark.parametrize("content", [b"version https://git-lfs.github.com/spec/v1\nsize 9\n", b""])
def test_weights_that_are_cut_short_are_refused_in_one_line(theirs: Path, content: bytes) -> None:
    """As a clone leaves them without git-lfs, and a copy that was broken off."""
    change(theirs / "config.json", model_type="llama", auto_map={})
    (theirs / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match=r"^\S+ can't be loaded \([^\n]+\): take a whole model [^\n]+$"):
        _ = Models(theirs, "float32", "cpu").base
