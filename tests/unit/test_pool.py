"""A pool of prompts: each once, those held out never trained on, and which of the others an iteration takes."""

from __future__ import annotations

from hypothesis import assume, given
from hypothesis import strategies as st

from tests.unit.prompt_files import COLOURS, pool_of, pool_of_rows, texts

# Cleaning


def test_a_prompt_that_stands_more_than_once_is_one_prompt_and_counted() -> None:
    pool = pool_of(["red", "green", "red", " red\n", "Red"])
    assert texts(pool) == ["Red", "green", "red"]
    assert pool.skipped.counts == {"is there already": 2}


def test_one_that_is_too_long_never_stops_a_run_and_is_counted() -> None:
    pool = pool_of_rows([{"prompt": "red"}, {"prompt": "x" * 101}, {"prompt": "green"}])
    assert texts(pool) == ["green", "red"]
    assert pool.skipped.counts == {"has more than 100 characters": 1}


# Held out

prompts = st.lists(st.text(alphabet="abc ", max_size=4), max_size=30)


@given(prompts, st.integers(1, 5))
def test_a_held_out_prompt_is_never_one_to_train_on(rows: list[str], held_out: int) -> None:
    distinct = {row.strip() for row in rows} - {""}
    assume(len(distinct) > held_out)
    pool = pool_of(rows, held_out=held_out)
    train, kept = ({prompt.prompt for prompt in part} for part in (pool.train, pool.held_out))
    assert len(pool.held_out) == held_out
    assert not train & kept
    assert train | kept == distinct
    assert len(rows) == len(distinct) + pool.skipped.counts.total()


def test_a_prompt_marked_as_held_out_once_is_not_trained_on_even_where_it_stands_again_unmarked() -> None:
    rows = [{"prompt": c, "part": "train"} for c in COLOURS] + [{"prompt": "red", "part": "held_out"}]
    pool = pool_of_rows(rows, held_out_column="part")
    assert [prompt.prompt for prompt in pool.held_out] == ["red"]
    assert "red" not in {prompt.prompt for prompt in pool.train}


def test_marked_prompts_beyond_those_asked_for_are_not_trained_on_either() -> None:
    rows = [{"prompt": c, "part": "train" if c == "red" else "held_out"} for c in COLOURS]
    pool = pool_of_rows(rows, held_out_column="part")
    assert [prompt.prompt for prompt in pool.train] == ["red"]
    assert len(pool.held_out) == 1


@given(st.permutations(COLOURS))
def test_which_prompts_are_held_out_does_not_depend_on_the_order_of_rows(order: list[str]) -> None:
    pool, other = pool_of(COLOURS), pool_of(order)
    assert (pool.train, pool.held_out) == (other.train, other.held_out)


# Which prompts an iteration takes

POOL = pool_of([f"prompt {i}" for i in range(21)])


@given(st.integers(1, 20), st.integers(0, 10), st.integers(0, 3))
def test_no_prompt_comes_twice_before_too_few_are_left(count: int, seed: int, cycle: int) -> None:
    rounds = len(POOL.train) // count
    iterations = range(cycle * rounds + 1, (cycle + 1) * rounds + 1)
    taken = [prompt.prompt_id for t in iterations for prompt in POOL.select(count, t, seed)]
    assert len(taken) == len({*taken}) == rounds * count


@given(st.integers(1, 20), st.integers(1, 50), st.integers(0, 10))
def test_a_selection_is_always_the_same_and_never_holds_out_prompts(count: int, iteration: int, seed: int) -> None:
    selected = POOL.select(count, iteration, seed)
    assert selected == POOL.select(count, iteration, seed)
    assert len(selected) == count
    assert {*selected} <= {*POOL.train}


def test_another_seed_and_another_cycle_take_another_order() -> None:
    orders = [POOL.select(20, iteration, seed) for seed in range(3) for iteration in (1, 2)]
    assert len({tuple(prompt.prompt_id for prompt in order) for order in orders}) == len(orders)
