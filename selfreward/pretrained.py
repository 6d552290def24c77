"""What transformers reads from a model's files. Code that comes with a model is never run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from selfreward.errors import ModelError, first_line


def load(kind: Any, source: Path | str, **how: Any) -> Any:
    """What `kind`, one of transformers' Auto classes, makes of a folder or a hub name.

    Raises `ModelError` for a model that needs code or a package of its own, or is not whole, or of a type that is not
    known.
    """
    from safetensors import SafetensorError  # a finished run loads nothing

    try:
        return kind.from_pretrained(source, trust_remote_code=False, **how)
    except ImportError as error:
        raise ModelError(f"{source} can't be loaded: {' '.join(str(error).split())}") from None
    except Exception as error:
        of_the_files = isinstance(error, (ValueError, KeyError, SafetensorError))
        if not of_the_files and type(error) is not Exception:  # tokenizers raises no other
            raise
        reason = first_line(error).partition(". ")[0].rstrip(".: ")  # what follows is how to run that code
        remedy = "take a whole model of a type that transformers knows; code that comes with one is never run"
        raise ModelError(f"{source} can't be loaded ({reason}): {remedy}") from None
