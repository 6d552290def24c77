"""What supervised tuning learns from. It imports no torch: judges and stages make examples before anything loads."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Example:
    """A prompt and its completion. The last token is `other_id` instead with the probability `other_weight`; `weight`
    is the example's own, in the mean over examples that is the loss."""

    prompt_ids: list[int]
    completion_ids: list[int]
    other_id: int = 0
    other_weight: float = 0.0
    weight: float = 1.0
