"""Adapters that change something: a fresh one does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from selfreward.config import LoraConfig
from selfreward.model.adapters import Adapter
from selfreward.model.lora import save_adapter
from selfreward.model.models import Models

LORA = LoraConfig(r=4, alpha=8)


def train(models: Models, folder: Path, seed: int = 0, lora: LoraConfig = LORA) -> Adapter:
    """An adapter that changes something: what training writes, its second factor drawn at random."""
    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(seed)
    with models.trainable(None, lora, seed) as model, torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
        save_adapter(model, folder)
    return Adapter(folder.name, folder)


def randomise(model: Any, seed: int = 0) -> Any:
    """The model, every number of its adapters drawn anew."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model
