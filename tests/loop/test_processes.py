"""Two processes (gloo, on a CPU) come to what one comes to: shards to the byte, training to rounding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from selfreward.config import LoraConfig
from selfreward.engines.base import Decoding, SampleRequest
from selfreward.group import ALONE, Group
from selfreward.records import Prompt
from selfreward.store import Work
from selfreward.store.observer import NoMeter, Silent
from selfreward.training.reference import compute_references
from tests.processes import Processes, SpreadEngine
from tests.training import EIGHT_PAIRS, InStage, settings, train_config, train_in_stage, trainable

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def two() -> Iterator[Processes]:
    processes = Processes(2)
    yield processes
    processes.close()


# Shards

WORDS = ["a", "bb", "ccc", "dddd", "eeeee"]


def _spell(group: Group, folder: Path, fails_at: str = "") -> tuple[list[Prompt], list[str], Any]:
    """One attempt at an artifact of five shards: its rows, the words that this process spelt, and the cost."""
    work = Work(folder, 0, Silent(), NoMeter(), group)
    spelt: list[str] = []

    def compute(shard: Sequence[str]) -> list[Prompt]:
        if shard[0] == fails_at:
            raise RuntimeError("killed")
        spelt.extend(shard)
        work.advance(len(shard), tokens=10)
        return [Prompt(word, word * 3, "") for word in shard]

    rows = work.shards([[word] for word in WORDS], compute, Prompt, size=lambda shard: len(shard[0]))
    return rows, spelt, work.total_cost()


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.parquet")}


def test_processes_divide_the_shards_and_all_have_all_rows(two: Processes, tmp_path: Path) -> None:
    rows, _, cost = _spell(ALONE, tmp_path / "one")
    (first, one, cost_here), (second, other, cost_there) = two.call(_spell, tmp_path / "two")
    assert first == second == rows
    assert (one, other) == (["eeeee", "ccc", "a"], ["dddd", "bb"])  # the greatest first
    assert cost_here == cost_there and cost_here.tokens == cost.tokens == 50
    assert _files(tmp_path / "two") == _files(tmp_path / "one")


def test_what_one_process_left_two_take_up_and_count_its_cost(two: Processes, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="killed"):
        _spell(ALONE, tmp_path / "two", fails_at="ccc")
    (first, one, cost), (second, other, _) = two.call(_spell, tmp_path / "two")
    assert (one, other) == (["ccc", "a"], ["bb"])
    assert first == second and cost.tokens == 50
    _spell(ALONE, tmp_path / "one")
    assert _files(tmp_path / "two") == _files(tmp_path / "one")


def test_an_engine_over_two_processes_answers_to_the_last_bit_as_over_one(
    two: Processes, tiny_model: Path, tmp_path: Path
) -> None:
    engines = [
        SpreadEngine(None, tiny_model, tmp_path / "one"),
        SpreadEngine(two, tiny_model, tmp_path / "two"),
    ]
    prompts = [[5, 6, 7], [8, 9], [10, 11, 12, 13]]
    requests = [SampleRequest(prompt, [3 * i, 3 * i + 1]) for i, prompt in enumerate(prompts)]
    sampled, scored, given = (
        [ask(engine) for engine in engines]
        for ask in (
            lambda engine: engine.sample(requests, Decoding(1.0, 0.9, 8), None, lambda *_: None),
            lambda engine: engine.score(prompts, [20, 21], None, lambda *_: None),
            lambda engine: engine.logprobs(prompts, [[30, 31], [32], [33, 34]], None, lambda *_: None),
        )
    )
    assert sampled[0] == sampled[1] and [len(answers) for answers in sampled[0]] == [2, 2, 2]
    assert scored[0] == scored[1]
    assert given[0] == given[1]


def _references(group: Group, model: Path) -> list[Any]:
    how = settings(train_config())
    with trainable(model, how.speed, how.train.lora) as (policy, tokenizer):
        return compute_references(policy, tokenizer, EIGHT_PAIRS, how.speed, 60, lambda *_: None, group)


def test_reference_log_probabilities_are_the_same_to_the_last_bit(two: Processes, tiny_model: Path) -> None:
    first, second = two.call(_references, tiny_model)
    assert first == second == _references(ALONE, tiny_model)


# Training


def _train(group: Group, model: Path, scratch: Path, pairs: Any, how: Any) -> InStage:
    return train_in_stage(model, pairs, scratch, how, group)


PREFLIGHT = settings(train_config(batch_size=4, epochs=2), micro_batch=4, preflight=True)


@pytest.mark.parametrize(
    ("pairs", "how"),
    [
        pytest.param(8, settings(train_config(batch_size=4)), id="two pairs each"),
        pytest.param(
            8, settings(train_config(batch_size=8, epochs=2), micro_batch=3), id="micro-batches smaller than a share"
        ),
        pytest.param(7, settings(train_config(batch_size=3), micro_batch=1), id="odd, and a last step of one pair"),
        pytest.param(7, settings(train_config("ipo", batch_size=5), micro_batch=2), id="another loss"),
        pytest.param(7, PREFLIGHT, id="two epochs after a preflight"),
    ],
)
def test_steps_of_two_processes_are_those_of_one_to_rounding(
    two: Processes, tiny_model: Path, tmp_path: Path, pairs: int, how: Any
) -> None:
    expected = train_in_stage(tiny_model, EIGHT_PAIRS[:pairs], tmp_path / "one", how)
    first, second = two.call(_train, tiny_model, tmp_path / "two", EIGHT_PAIRS[:pairs], how)
    assert first.metrics == second.metrics
    assert first.tokens == second.tokens == expected.tokens
    for name in ("loss", "reward_margin", "gradient_norm"):
        assert first.metrics[name] == pytest.approx(expected.metrics[name], rel=1e-5, abs=1e-5), name
    after_a_step = slice(1, None)  # before it all rewards are 0, and which of two is greater is rounding's
    assert first.metrics["reward_accuracy"][after_a_step] == pytest.approx(
        expected.metrics["reward_accuracy"][after_a_step], rel=1e-5
    )
    for name, tensor in expected.adapter.items():
        assert torch.equal(first.adapter[name], second.adapter[name])
        torch.testing.assert_close(first.adapter[name], tensor, rtol=1e-5, atol=1e-5)


def _train_and_draw(group: Group, model: Path, scratch: Path, how: Any) -> tuple[InStage, float]:
    made = train_in_stage(model, EIGHT_PAIRS, scratch, how, group)
    return made, torch.rand(()).item()


def test_dropout_is_another_in_each_process_and_the_same_again(
    two: Processes, tiny_model: Path, tmp_path: Path
) -> None:
    how = settings(train_config(lora=LoraConfig(r=4, alpha=8, dropout=0.3)))
    (once, first), (_, second) = two.call(_train_and_draw, tiny_model, tmp_path / "once", how)
    (again, _), _ = two.call(_train_and_draw, tiny_model, tmp_path / "again", how)
    assert once.metrics == again.metrics
    assert first != second
