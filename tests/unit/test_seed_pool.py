"""The prompts that come with the project: enough, of all kinds on both sides, and each once."""

from __future__ import annotations

from collections import Counter

import pytest

from selfreward.config import DataConfig, PromptsConfig
from selfreward.sources import SOURCES
from selfreward.sources.pool import Pool


@pytest.fixture(scope="module")
def seed_pool() -> Pool:
    cfg = PromptsConfig(kind="seed_pool", category_column="category", held_out_column="split", held_out=48)
    return SOURCES["seed_pool"](cfg, DataConfig())


def test_the_seed_pool_has_240_prompts_at_least_150_of_them_to_train_on(seed_pool: Pool) -> None:
    assert len(seed_pool.train) + len(seed_pool.held_out) == 240
    assert len(seed_pool.train) >= 150
    assert not seed_pool.skipped.counts


def test_the_seed_pool_has_twelve_categories_each_with_prompts_on_both_sides(seed_pool: Pool) -> None:
    train, held_out = (Counter(p.category for p in part) for part in (seed_pool.train, seed_pool.held_out))
    assert train.keys() == held_out.keys()
    assert len(train) == 12
    assert min(train.values()) >= 10
    assert min(held_out.values()) >= 2


def test_no_prompt_of_the_seed_pool_repeats_another_but_for_case_and_spaces(seed_pool: Pool) -> None:
    words = Counter(" ".join(prompt.prompt.lower().split()) for prompt in seed_pool.train + seed_pool.held_out)
    assert [text for text, count in words.items() if count > 1] == []
