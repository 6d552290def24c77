"""What a judge is: a function from candidates to judgements."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from selfreward.config import JudgeConfig
from selfreward.engines.base import Advance, Engine
from selfreward.model.adapters import Adapter
from selfreward.records import Candidate, Judgement


@dataclass(frozen=True)
class JudgeContext:
    """What a judge works with: an engine, the adapter of the policy that judges, and the run's seed."""

    engine: Engine
    adapter: Adapter | None
    seed: int
    advance: Advance


@dataclass(frozen=True)
class Judge:
    """A way to score candidates. `texts` are its prompts in each mode, which are part of what a judgement is."""

    judge: Callable[[Sequence[Candidate], JudgeConfig, JudgeContext], list[Judgement]]
    texts: Mapping[str, tuple[str, ...]]
    highest: float  # scores run from 0 to this
