"""The texts of a folder or a file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from selfreward.config import DocumentsConfig
from selfreward.errors import ConfigError
from selfreward.rows import NOT_UTF_8, THERE_ALREADY, Row, RowError, Skipped, UnusedRowError, collect, rows_of, text_of
from selfreward.store.identity import digest, file_sha256

_SUFFIXES = (".txt", ".md", ".markdown")


def read_documents(cfg: DocumentsConfig, on_error: str) -> tuple[list[tuple[str, str]], Skipped]:
    """Name and text of each document, each text once, and what was left out.

    None is too long: they are cut. Raises `ConfigError` where there are none, and `DataError` for one that can't be
    used, unless `on_error` is `skip`.
    """
    path, skipped, known = Path(str(cfg.path)), Skipped(), set[str]()

    def take(row: Any) -> list[str]:
        text = text_of(row, cfg.text_column)
        if text in known:
            raise UnusedRowError(THERE_ALREADY)
        known.add(text)
        return [text]

    rows = _files_of(path, cfg.text_column) if path.is_dir() else rows_of(path, "documents.path")
    columns = {"documents.text_column": cfg.text_column}
    documents = collect(rows, take, on_error=on_error, skipped=skipped, columns=columns, origin=path.name)
    if not documents:
        kinds = ", ".join(_SUFFIXES)
        raise ConfigError(
            "documents.path",
            path,
            f"holds no text{skipped.said}; name a folder with files that end in {kinds}, or a .jsonl or .parquet",
        )
    return documents, skipped


def documents_content(path: Path) -> str:
    """What identifies the documents: the bytes of the file, or of all of a folder's with their names."""
    if path.is_dir():
        return digest([[str(file.relative_to(path)), file_sha256(file)] for file in _files(path)])
    return file_sha256(path)


def _files_of(folder: Path, column: str) -> Iterator[Row]:
    """Each file as a row of one column."""
    for file in _files(folder):
        yield str(file.relative_to(folder)), lambda file=file: {column: _decoded(file)}


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.suffix.lower() in _SUFFIXES and file.is_file())


def _decoded(file: Path) -> str | bytes:
    """A file's text, or its bytes where it is none. Raises `RowError` for text that is not UTF-8."""
    content = file.read_bytes()
    try:
        return content.decode("utf-8-sig")  # some editors begin a file with a mark of its encoding
    except UnicodeDecodeError as error:
        if b"\0" in content:
            return content
        raise RowError(NOT_UTF_8) from error
