"""How much training a kill may cost."""

from __future__ import annotations

import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments

from selfreward.store import Cost
from selfreward.training.checkpoint import CheckpointCallback


@pytest.mark.parametrize(
    ("seconds", "step", "is_written"),
    [(29, 5, False), (30, 5, True), pytest.param(30, 10, False, id="the last step, which ends the training")],
)
def test_a_checkpoint_is_written_when_so_many_seconds_have_passed(
    monkeypatch: pytest.MonkeyPatch, seconds: float, step: int, is_written: bool
) -> None:
    clock = iter([100.0, 100.0 + seconds])
    monkeypatch.setattr("selfreward.training.checkpoint.time.monotonic", lambda: next(clock))
    callback, control = CheckpointCallback(30, Cost), TrainerControl()
    callback.on_step_end(TrainingArguments(), TrainerState(global_step=step, max_steps=10), control)
    assert control.should_save == is_written
