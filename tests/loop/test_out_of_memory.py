"""Memory that runs out: a step of training is taken again with fewer pairs at a time, and comes to the same."""

from __future__ import annotations

import pkgutil
import weakref
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pytest
import torch

from selfreward.cap import GIB, MemoryMeter, release, resident_bytes
from selfreward.config import LoraConfig, MemoryConfig, RunConfig
from selfreward.errors import OutOfMemoryError
from selfreward.explain import explain
from selfreward.loop import loop
from selfreward.model.model_files import identify
from selfreward.training.pair_trainer import PairTrainer
from tests.loop.helpers import Recorder, make_store
from tests.training import EIGHT_PAIRS, InStage, assert_same, pair, settings, train_config, train_in_stage

ON_CPU = "[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to"


def assert_equal_to_rounding(found: InStage, expected: InStage) -> None:
    for name in ("loss", "reward_margin", "gradient_norm"):
        assert found.metrics[name] == pytest.approx(expected.metrics[name], rel=1e-6, abs=1e-6), name
    assert found.tokens == expected.tokens
    for name, tensor in expected.adapter.items():
        torch.testing.assert_close(found.adapter[name], tensor, rtol=1e-5, atol=1e-6)


RunsOut = Callable[[Collection[int], BaseException], list[int]]


@pytest.fixture
def runs_out(monkeypatch: pytest.MonkeyPatch) -> RunsOut:
    """Has the forward passes of these numbers, counted from 1, end with an error once they have computed a loss.

    Returns the numbers of pairs of all forward passes, as they are made.
    """
    whole = PairTrainer.compute_loss

    def arrange(at: Collection[int], error: BaseException) -> list[int]:
        made: list[int] = []

        def compute_loss(self: PairTrainer, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            loss = whole(self, model, inputs, *args, **kwargs)
            made.append(len(inputs["input_ids"]) // 2)
            if len(made) in at:
                raise error
            return loss

        monkeypatch.setattr(PairTrainer, "compute_loss", compute_loss)
        return made

    return arrange


# The step is taken again

HOW = settings(train_config(), micro_batch=2)


@pytest.fixture(scope="module")
def roomy(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> InStage:
    """What training comes to where there is room for two pairs at a time."""
    return train_in_stage(tiny_model, EIGHT_PAIRS, tmp_path_factory.mktemp("roomy"), HOW)


CUDA = torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2.00 GiB.")


@pytest.mark.parametrize(
    ("at", "error"),
    [
        pytest.param(2, CUDA, id="PyTorch on CUDA"),
        pytest.param(3, CUDA, id="PyTorch on CUDA, in the second step"),
        pytest.param(2, RuntimeError(ON_CPU), id="PyTorch on a CPU", marks=pytest.mark.slow),
        pytest.param(2, OutOfMemoryError("memory.ram_gb=2: the process holds 2.50 GiB"), id="our check"),
        pytest.param(2, MemoryError("Unable to allocate 2.00 GiB"), id="the system", marks=pytest.mark.slow),
        pytest.param(2, MemoryError(), id="the system, without a word", marks=pytest.mark.slow),
    ],
)
def test_a_step_that_runs_out_is_taken_again_with_half_as_many_pairs_at_a_time(
    tiny_model: Path, tmp_path: Path, roomy: InStage, runs_out: RunsOut, at: int, error: Exception
) -> None:
    made = runs_out([at], error)
    found = train_in_stage(tiny_model, EIGHT_PAIRS, tmp_path, HOW)
    assert made == ([2, 2] if at == 2 else [2, 2, 2]) + [1] * (8 if at == 2 else 4)
    assert found.metrics["micro_batch"] == 1 and roomy.metrics["micro_batch"] == 2
    (note,) = found.notes
    assert note.startswith("memory ran out") and str(error).partition("\n")[0] in note
    assert note.endswith(": the step is taken again with micro-batches of 1") and len(note.splitlines()) == 1
    assert_equal_to_rounding(found, roomy)


@pytest.mark.parametrize("dropout", [pytest.param(0.0, marks=pytest.mark.slow), 0.3])
def test_what_ran_out_in_the_first_step_is_to_the_last_bit_what_began_with_fewer_pairs(
    tiny_model: Path, tmp_path: Path, runs_out: RunsOut, dropout: float
) -> None:
    """Nothing of the failed attempt is left: no gradient, no metric, no token counted, no random number drawn."""
    train_settings = train_config("hinge", lora=LoraConfig(r=4, alpha=8, dropout=dropout))
    expected = train_in_stage(tiny_model, EIGHT_PAIRS, tmp_path / "one", settings(train_settings, micro_batch=1))
    runs_out([2], torch.OutOfMemoryError("no memory"))
    assert_same(
        train_in_stage(tiny_model, EIGHT_PAIRS, tmp_path / "two", settings(train_settings, micro_batch=2)), expected
    )


def test_it_is_halved_as_often_as_need_be_and_stays_so(
    tiny_model: Path, tmp_path: Path, roomy: InStage, runs_out: RunsOut
) -> None:
    made = runs_out([1, 3], torch.OutOfMemoryError("no memory"))
    found = train_in_stage(tiny_model, EIGHT_PAIRS, tmp_path, settings(train_config(), micro_batch=3))
    assert made == [3, 2, 2, *[1] * 8]
    assert [note.rsplit(maxsplit=1)[-1] for note in found.notes] == ["2", "1"]
    assert_equal_to_rounding(found, roomy)


def test_resident_memory_is_checked_where_all_activations_of_a_micro_batch_are_there(
    tiny_model: Path, tmp_path: Path, roomy: InStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    whole = PairTrainer.compute_loss

    def compute_loss(self: PairTrainer, *args: Any, **kwargs: Any) -> Any:
        events.append("forward")
        loss: Any = whole(self, *args, **kwargs)
        loss.register_hook(lambda _: events.append("backward"))
        return loss

    def check(ram_gb: float | None) -> None:
        events.append("check")
        if events.count("check") == 2:
            raise OutOfMemoryError(f"memory.ram_gb={ram_gb:g}: the process holds too much")

    monkeypatch.setattr(PairTrainer, "compute_loss", compute_loss)
    monkeypatch.setattr("selfreward.training.micro_batches.check_resident", check)
    limited = settings(train_config(), micro_batch=2, memory=MemoryConfig(ram_gb=9))
    found = train_in_stage(tiny_model, EIGHT_PAIRS, tmp_path, limited)
    micro_batch = ["forward", "check", "backward"]
    assert events == [*micro_batch, "forward", "check", *micro_batch * 8]
    (note,) = found.notes
    assert note.startswith("memory ran out (memory.ram_gb=9: the process holds too much): the step is taken again")
    assert_equal_to_rounding(found, roomy)


def test_the_failed_attempt_is_gone_when_the_next_begins(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its tensors are what there is no room for; an error that is being handled would hold on to them."""
    whole = PairTrainer.compute_loss
    held: list[Any] = []
    left: list[Any] = []

    def compute_loss(self: PairTrainer, *args: Any, **kwargs: Any) -> Any:
        if held:
            left.append(held[0]())
        loss = whole(self, *args, **kwargs)
        held.append(weakref.ref(loss))
        if len(held) == 1:
            raise torch.OutOfMemoryError("no memory")
        return loss

    monkeypatch.setattr(PairTrainer, "compute_loss", compute_loss)
    train_in_stage(tiny_model, EIGHT_PAIRS, tmp_path, HOW)
    assert left and set(left) == {None}


# It can't be


def test_one_pair_that_does_not_fit_is_an_error_of_one_line_with_remedies(
    tiny_model: Path, tmp_path: Path, runs_out: RunsOut
) -> None:
    made = runs_out(range(100), CUDA)
    with pytest.raises(OutOfMemoryError) as caught:
        train_in_stage(tiny_model, EIGHT_PAIRS, tmp_path, settings(train_config()))
    assert made == [4, 2, 1]
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert message.startswith("memory ran out in training (CUDA out of memory.): one pair at a time is too much; ")
    for remedy in ("memory.gradient_checkpointing=true", "lower sampling.max_new_tokens", "allow more memory"):
        assert remedy in message


def test_a_loss_that_compares_the_pairs_of_a_batch_is_never_cut(
    tiny_model: Path, tmp_path: Path, runs_out: RunsOut
) -> None:
    made = runs_out([1], torch.OutOfMemoryError("no memory"))
    with pytest.raises(OutOfMemoryError, match=r"this loss needs its whole batch at once, which is too much; set .*"):
        train_in_stage(tiny_model, EIGHT_PAIRS, tmp_path, settings(train_config("aot")))
    assert made == [4]


def test_any_other_error_is_left_as_it_is(tiny_model: Path, tmp_path: Path, runs_out: RunsOut) -> None:
    error = RuntimeError("the sizes of tensors must match")
    made = runs_out([2], error)
    with pytest.raises(RuntimeError) as caught:
        train_in_stage(tiny_model, EIGHT_PAIRS, tmp_path, HOW)
    assert caught.value is error
    assert made == [2, 2]


# In any other stage


@pytest.mark.parametrize(
    ("stage", "place"),
    [
        pytest.param("parity", "selfreward.training.reference._score", id="parity"),
        pytest.param("references", "selfreward.training.reference._score", id="references"),
        pytest.param("candidates", "selfreward.engines.hf.HFEngine._decode", id="one prompt's answers"),
    ],
)
def test_what_does_not_fit_in_a_stage_is_an_error_of_one_line_with_remedies(
    tiny_config: RunConfig, monkeypatch: pytest.MonkeyPatch, stage: str, place: str
) -> None:
    stages: list[str] = []
    whole = pkgutil.resolve_name(place)

    def compute(*args: Any) -> Any:
        if stages[-1] == stage:
            raise CUDA
        return whole(*args)

    monkeypatch.setattr(place, compute)
    store = make_store(tiny_config, Recorder(lambda _, stage: stages.append(stage)))
    store.meter = MemoryMeter()
    identity = identify(Path(tiny_config.model.name), tiny_config.model.dtype)
    with pytest.raises(OutOfMemoryError) as caught:
        list(loop(tiny_config, identity, store))
    assert explain(caught.value).startswith("memory ran out (CUDA out of memory.): lower memory.scoring_tokens, ")
    assert stages[-1] == stage


# In earnest


@pytest.mark.slow
def test_a_limit_of_main_memory_is_kept_by_taking_fewer_pairs_at_a_time(tiny_model: Path, tmp_path: Path) -> None:
    """A pair of 1,560 tokens keeps some 80 MB of attention scores, so three of them some 240 MB."""
    pairs = [pair(1500, 60, 40, seed) for seed in range(3)]
    train_settings = train_config(batch_size=3, max_length=1600)

    def trained(name: str, room: float | None) -> InStage:
        release()
        limit = None if room is None else (resident_bytes() + room) / GIB
        how = settings(train_settings, memory=MemoryConfig(ram_gb=limit))
        return train_in_stage(tiny_model, pairs, tmp_path / name, how)

    roomy, tight = trained("roomy", None), trained("tight", 195e6)
    assert roomy.metrics["micro_batch"] == 3 and not roomy.notes
    assert tight.metrics["micro_batch"] < 3 and tight.notes
    assert tight.metrics["loss"] == pytest.approx(roomy.metrics["loss"], rel=1e-6)
    with pytest.raises(OutOfMemoryError, match="one pair at a time is too much"):
        trained("nothing fits", 20e6)
