"""Another forward for a module of a model, or another attention, for a while."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def patched(module: Any, forward: Callable[..., Any]) -> Iterator[None]:
    """Have `module` answer by `forward`."""
    with forward_kept(module):
        module.forward = forward
        yield


@contextmanager
def forward_kept(module: Any) -> Iterator[None]:
    """Restore `module.forward` afterwards, whatever replaced it within: its class's, or one of its own."""
    before = vars(module).get("forward")
    try:
        yield
    finally:
        vars(module).pop("forward", None)
        if before is not None:
            module.forward = before


@contextmanager
def attention_of(model: Any, kernel: str) -> Iterator[None]:
    """Have a model of transformers attend by another kernel, as that library calls it."""
    before = model.config._attn_implementation
    model.set_attn_implementation(kernel)
    try:
        yield
    finally:
        model.set_attn_implementation(before)
