"""Prompts from a data set that the `datasets` library can load: a hub name or a local folder."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

from selfreward.config import DataConfig, PromptsConfig
from selfreward.errors import ConfigError, first_line
from selfreward.sources.pool import Pool, columns, identify, make_pool
from selfreward.store.identity import digest, file_sha256

_COMMIT = re.compile("[0-9a-f]{40}")


def load(cfg: PromptsConfig, data: DataConfig) -> Pool:
    """The prompts of `cfg.name`, of its subset and split.

    A hub data set can change under its name, so its commit must be given: it is the identity. A local folder's
    identity is the bytes of its files.

    Raises `ConfigError` for a name, subset, commit or split that isn't there, and `DataError` for a row.
    """
    if not cfg.name:
        raise ConfigError("prompts.name", cfg.name, "name a data set or a local folder")
    folder, part = Path(cfg.name), [cfg.subset, cfg.split]
    if folder.is_dir():
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        content = digest([[str(path.relative_to(folder)), file_sha256(path)] for path in files] + part)
    elif cfg.revision and _COMMIT.fullmatch(cfg.revision):
        content = digest([cfg.name, cfg.revision, *part])
    else:
        remedy = f"name the commit of {cfg.name}, 40 hexadecimal digits, or a local folder as prompts.name"
        raise ConfigError("prompts.revision", cfg.revision, remedy)
    from datasets import load_dataset  # takes a second to import, and only this source needs it

    try:
        revision = None if folder.is_dir() else cfg.revision
        rows: Any = load_dataset(cfg.name, cfg.subset, split=cfg.split, revision=revision)
    except Exception as error:  # the library raises whatever its readers, its network and the hub raise
        reason = first_line(error)
        of = f"subset {cfg.subset}, " if cfg.subset else ""
        remedy = f"{of}split {cfg.split} can't be loaded ({reason}); check prompts.subset and prompts.split too"
        raise ConfigError("prompts.name", cfg.name, remedy) from error
    wanted = sorted({column for column in columns(cfg) if column is not None})
    if {*wanted} <= {*rows.column_names}:
        rows = rows.select_columns(wanted)  # others may be sounds or pictures, which would be decoded for nothing
    numbered = ((f"{cfg.name}, row {number}", partial(dict, row)) for number, row in enumerate(rows, start=1))
    return make_pool(numbered, identify(cfg, content, data), cfg, data, cfg.name)
