"""A step that CUDA captures once and replays: a model's thousands of short kernels without Python between them."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor

_STATIC_ROPE = {"default", "linear", "llama3", "yarn", "proportional"}
"""Rotary positions that don't depend on the longest position at hand, which Python would have to look at."""


def can_capture(model: Any) -> bool:
    """Whether a step of the model is the same kernels each time: not where data decide what is computed."""
    config = model.config.get_text_config()
    rope = getattr(config, "rope_parameters", None) or {}
    kinds = [part["rope_type"] for part in (rope, *rope.values()) if isinstance(part, dict) and "rope_type" in part]
    routed = any("expert" in name for name, _ in model.named_modules())
    quantized = getattr(model, "hf_quantizer", None) is not None
    return model.device.type == "cuda" and set(kinds) <= _STATIC_ROPE and not routed and not quantized


class CudaGraph:
    """A computation over tensors that stay where they are, as a CUDA graph."""

    def __init__(self) -> None:
        self._calls = 0
        self._output: Tensor | None = None
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, compute: Callable[[], Tensor]) -> Tensor:
        """What `compute` gives, which must be the same computation each time.

        The first call runs it as it is, for a kernel must be loaded before it can be captured. The second one captures
        it, and from then on it is replayed into the same output. Where memory does not reach for its graph, it is run
        as it is.
        """
        self._calls += 1
        if self._calls == 2:
            self._output = self._capture(compute)
            if self._output is None:
                torch.cuda.empty_cache()  # what lies unused can't be taken while capturing
                self._output = self._capture(compute)
        if self._graph is None or self._output is None:
            return compute()
        self._graph.replay()
        return self._output

    def forget(self) -> None:
        """Say that other tensors have come in place of those that were captured."""
        self._calls = 0
        self._output = None

    def _capture(self, compute: Callable[[], Tensor]) -> Tensor | None:
        """The output, or None where memory ran out.

        `torch.cuda.graph` would give all unused memory back to the device each time.
        """
        graph, stream = torch.cuda.CUDAGraph(), _stream()
        output: Tensor | None = None
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream), _no_garbage_collection():
            # In the memory of the graph before, which is not replayed any more.
            graph.capture_begin(*([self._graph.pool()] if self._graph else []), capture_error_mode="thread_local")
            try:
                output = compute()
            except torch.OutOfMemoryError:
                output = None
            finally:
                graph.capture_end()
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = None if output is None else graph
        return output


@cache
def _stream() -> torch.cuda.Stream:
    """On which all is captured: each stream has a workspace of its own for matrix products, for good."""
    return torch.cuda.Stream()


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """What is collected may be of CUDA: to destroy it would spoil a capture."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()
