"""A policy writes the prompts of an iteration, and learns from documents before the first."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfreward.config import RunConfig
from selfreward.errors import ConfigError, GenerationError
from selfreward.model import model_files
from selfreward.records import Candidate, Chunk, Prompt, Proposal, Rephrasing
from selfreward.stages.base_policy import BASE_POLICY, BasePolicyIdentity
from selfreward.stages.pretrain import blocks, fill_up, pretrain
from selfreward.stages.settings import StageSettings
from selfreward.store import Metrics, Stage, Store
from selfreward.training.examples import Example
from tests.loop.helpers import Recorder, make_store, run_loop
from tests.unit.making import artifact


@pytest.fixture
def writing(tiny_config: RunConfig) -> RunConfig:
    """A policy that writes noise, and filters that let some of it pass."""
    cfg = tiny_config
    cfg.generation.kind = "self_instruct"
    cfg.generation.proposals, cfg.generation.max_new_tokens = 32, 200
    cfg.generation.least_words, cfg.generation.keywords, cfg.generation.language = 1, "", None
    return cfg


@pytest.mark.parametrize("kind", ["self_instruct", "evolve"])
def test_the_loop_goes_on_with_prompts_that_the_policy_wrote(writing: RunConfig, kind: str) -> None:
    writing.generation.kind = kind
    _, made = run_loop(writing)
    written = [prompt.prompt for prompt in made["source"].read(Prompt)]
    assert made["source"].manifest.stage == "new_prompts"
    assert len({*written}) == writing.prompts.per_iteration
    assert {candidate.prompt for candidate in made["candidates"].read(Candidate)} <= {*written}
    metrics = made["source"].metrics
    assert metrics["looked_at"] == len(written) + sum(metrics["left_out"].values())


def test_what_the_gate_drops_is_written_anew(writing: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    writing.gate.language = "de"
    monkeypatch.setattr("selfreward.stages.gate.language", lambda text: ("de", "en")[len(text) % 2])  # noise has none
    recorder = Recorder()
    _, made = run_loop(writing, recorder)
    assert made["prompts"].metrics["prompts"] == writing.prompts.per_iteration
    assert made["source"].metrics["prompts"] > made["prompts"].metrics["prompts"]
    assert recorder.computed.count("gate") > 1


def test_where_the_gate_lets_none_of_a_round_through_the_next_is_written(
    writing: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    writing.generation.rounds, writing.gate.language = 2, "de"
    monkeypatch.setattr("selfreward.stages.gate.language", lambda text: "en")  # the tiny policy's noise has none
    recorder = Recorder()
    with pytest.raises(GenerationError, match=r"^generation.rounds=2: 0 of 6 new prompts .* does not pass the gate\)"):
        run_loop(writing, recorder)
    assert recorder.computed.count("gate") == 2


def test_later_iterations_write_other_prompts_and_are_shown_the_earlier_ones(writing: RunConfig) -> None:
    writing.iteration, writing.generation.generated_share = 2, 1.0
    recorder = Recorder()
    _, first, second = run_loop(writing, recorder)
    one, other = ({p.prompt for p in made["source"].read(Prompt)} for made in (first, second))
    assert not one & other
    assert second["source"].manifest.parents["iteration_1"] == first["source"].full_id
    assert one <= {text for proposal in second["proposals_0"].read(Proposal) for text in proposal.shown}


def test_a_policy_that_writes_too_little_stops_the_run_and_says_why(writing: RunConfig) -> None:
    writing.generation.rounds, writing.generation.least_words = 2, 100
    with pytest.raises(GenerationError) as raised:
        run_loop(writing)
    line = str(raised.value)
    assert line.startswith("generation.rounds=2: 0 of 6 new prompts were kept (")
    assert line.endswith("raise it, or loosen the limits of generation")


@pytest.fixture
def reading(tiny_config: RunConfig, tmp_path: Path) -> RunConfig:
    """A run with documents of a few sentences each."""
    folder = tmp_path / "documents"
    folder.mkdir()
    for number in range(8):
        text = " ".join(f"In {1900 + number} house {part} of street {number} was built of stone." for part in range(6))
        (folder / f"{number}.txt").write_text(text)
    cfg = tiny_config
    cfg.documents.path, cfg.documents.held_out, cfg.documents.chunk_tokens = str(folder), 2, 60
    cfg.documents.max_new_tokens = 24
    cfg.iteration, cfg.tuning.learning_rate, cfg.tuning.epochs = 0, 1e-2, 3
    return cfg


def test_documents_are_learned_from_and_those_held_out_surprise_less(reading: RunConfig) -> None:
    reading.documents.rephrased_share = 0.0
    (made,) = run_loop(reading)
    chunks = made["chunks"].read(Chunk)
    assert {chunk.document for chunk in chunks if chunk.held_out} < {chunk.document for chunk in chunks}
    assert all(chunk.tokens <= 60 for chunk in chunks)
    assert "rephrasings" not in made  # nothing would be made of them
    before, after = made["base_perplexity"].metrics, made["perplexity"].metrics
    assert after["perplexity"] < before["perplexity"] / 2
    assert after["perplexity_low"] <= after["perplexity"] <= after["perplexity_high"]
    assert made["policy"] is made["pretrained"]
    assert made["policy"].metrics["real_tokens"] == 2 * made["chunks"].metrics["tokens"] + _ends(chunks)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(0, 60))
def test_texts_are_taken_in_full_before_any_comes_again_up_to_the_tokens_that_are_wanted(
    lengths: list[int], wanted: int
) -> None:
    texts = [[number] * length for number, length in enumerate(lengths)]
    taken = fill_up(texts, wanted, Random(0))
    assert sum(map(len, taken)) == wanted
    whole, cut = taken[:-1], taken[-1:]
    for start in range(0, len(whole), len(texts)):
        several = whole[start : start + len(texts)]
        assert len({text[0] for text in several}) == len(several)
        assert all(text in texts for text in several)
    assert all(text == texts[text[0]][: len(text)] for text in cut)


@given(st.lists(st.lists(st.integers(0, 9), max_size=9), max_size=6), st.integers(1, 12))
def test_blocks_are_of_one_length_and_together_the_texts(texts: list[list[int]], size: int) -> None:
    made = blocks(texts, size)
    assert [token for block in made for token in block] == [token for text in texts for token in text]
    assert all(len(block) == size for block in made[:-1]) and all(0 < len(block) <= size for block in made)


def test_real_texts_and_rephrasings_are_learned_from_half_and_half(
    reading: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, settings = Store(Path(reading.output_dir), make_store(reading).tools), StageSettings(reading)
    texts = ["The sea is deep and cold.", "A lock keeps a door shut.", "Nobody may learn this: zebra."]
    chunks = [Chunk(str(n), str(n), text, 9, held_out=n == 2) for n, text in enumerate(texts)]
    said = {"Cold and deep, that is the sea, and it is wide.": "", "zebra zebra zebra": "is a copy"}
    rephrasings = [Rephrasing(str(n), "easy", *one, None, None) for n, one in enumerate(said.items())]
    parents = {
        "policy": store.run(BASE_POLICY, BasePolicyIdentity(model_files.identify(Path(reading.model.name), "float32"))),
        "chunks": artifact(store, "chunks", chunks, Chunk),
        "rephrasings": artifact(store, "rephrasings", rephrasings, Rephrasing),
    }
    taught: list[int] = []

    def noted(examples: list[Example], *others: Any) -> Metrics:
        taught.extend(token for example in examples for token in (*example.prompt_ids, *example.completion_ids))
        return {}

    monkeypatch.setattr("selfreward.stages.pretrain.tune_on", noted)
    learned = store.run(Stage("taught", 1, pretrain), settings.pretraining, parents, 0).metrics
    chat = store.tools.local_engine.chat
    assert learned["real_tokens"] == learned["rephrased_tokens"] == sum(len(chat.answer(text)) for text in texts[:2])
    assert len(taught) == 2 * learned["real_tokens"]
    assert "zebra" not in chat.decode(taught)


def test_a_share_of_rephrasings_that_is_not_there_is_an_error_that_names_it(reading: RunConfig) -> None:
    with pytest.raises(
        ConfigError, match=r"^documents.rephrased_share=0.5: no rephrasing is fit to be used; set it to"
    ):
        run_loop(reading)


def test_a_text_of_one_token_is_nothing_to_learn_from(reading: RunConfig) -> None:
    reading.documents.most_tokens = 1
    with pytest.raises(ConfigError, match=r"^documents.most_tokens=1: what is learned from has two tokens at least;"):
        run_loop(reading)


def test_documents_of_a_token_each_measure_nothing(reading: RunConfig) -> None:
    folder = Path(str(reading.documents.path))
    for number, text in enumerate(("a", "b")):
        (folder / f"{number}.txt").write_text(text)
    for path in folder.glob("[2-7].txt"):
        path.unlink()
    reading.documents.held_out = 1
    with pytest.raises(ConfigError, match=r"^documents.held_out=1: all of them are a token long; hold out more"):
        run_loop(reading)


def test_documents_may_be_rephrased_and_measured_alone(reading: RunConfig) -> None:
    reading.documents.most_tokens = 0
    (made,) = run_loop(reading)
    assert "pretrained" not in made
    chunks = made["chunks"].read(Chunk)
    rephrased = {one.chunk_id for one in made["rephrasings"].read(Rephrasing)}
    assert rephrased == {chunk.chunk_id for chunk in chunks if not chunk.held_out}
    assert made["policy"].full_id == made["rephrasings"].manifest.parents["policy"]


def _ends(chunks: list[Chunk]) -> int:
    """The tokens that end what is learned from: one a chunk, twice over."""
    return 2 * sum(not chunk.held_out for chunk in chunks)
