"""An adapter on disk: what it is called and which files hold it. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

WEIGHTS_FILE = "adapter_model.safetensors"
SETTINGS_FILE = "adapter_config.json"


@dataclass(frozen=True)
class Adapter:
    """An adapter, named by its artifact's id and content: one name, folder and set of weights each, for ever."""

    name: str
    folder: Path
