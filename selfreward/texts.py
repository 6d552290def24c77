"""What models are asked: text files beside the code that asks it, with named places to fill."""

from __future__ import annotations

import re
from pathlib import Path

_PLACE = re.compile(r"\{(\w+)\}")


def read_text(module: str, name: str) -> str:
    """A text by its file name, from the folder of the module that asks (its `__file__`)."""
    return (Path(module).parent / name).read_text(encoding="utf-8")


def fill(text: str, /, **values: str) -> str:
    """`text` with each `{place}` filled, in one pass: a value that holds `{place}` itself stays as it is."""
    return _PLACE.sub(lambda match: values[match[1]], text).strip()
