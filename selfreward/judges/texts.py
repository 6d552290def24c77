"""Judge prompts: text files beside the judges, with named places to fill."""

from __future__ import annotations

import re
from pathlib import Path

_PLACE = re.compile(r"\{(\w+)\}")


def read_text(name: str) -> str:
    """A judge prompt by its file name."""
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


def fill(text: str, **values: str) -> str:
    """`text` with each `{place}` filled, in one pass: a value that holds `{place}` itself stays as it is."""
    return _PLACE.sub(lambda match: values[match[1]], text).strip()
