"""Policy 0 learns to answer and to judge from people before the loop begins."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from selfreward.config import RunConfig
from selfreward.errors import ConfigError
from selfreward.records import Demonstration, Rating
from selfreward.stages.tune import tune_on
from selfreward.store import Metrics
from selfreward.tracking.metrics import separate_judge
from selfreward.training.examples import Example
from tests.loop.helpers import Recorder, run_loop

MANY = 16  # epochs, in which what people like is learned; where that is not asked, one will do


@pytest.fixture
def people(tiny_config: RunConfig, tmp_path: Path) -> RunConfig:
    """People who like answers that are yes, and no others; they always answer so."""
    rows = [
        {
            "prompt": f"Is {n} a number?",
            "responses": [{"response": f"Yes {n}.", "rank": 0}, {"response": f"No {n}.", "rank": 1}],
        }
        for n in range(40)
    ]
    path = tmp_path / "people.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    measured = tmp_path / "measured.jsonl"
    measured.write_text("".join(json.dumps(row) + "\n" for row in rows[:10]))
    cfg = tiny_config
    for file, where in ((cfg.tuning.demonstrations, path), (cfg.tuning.ratings, path), (cfg.people, measured)):
        file.path, file.format = str(where), "groups"
    cfg.iteration, cfg.tuning.learning_rate = 0, 5e-3
    cfg.memory.micro_batch, cfg.memory.checkpoint_seconds = 8, 30  # many short steps: each would write a checkpoint
    return cfg


def test_the_judge_learns_what_people_like_on_prompts_that_it_did_not_see(people: RunConfig) -> None:
    people.tuning.epochs = MANY
    (made,) = run_loop(people)
    agreement = made["agreement"].metrics
    assert agreement["pairs"] == agreement["pairs_alike"] == 10
    assert agreement["agreement"] > 0.9
    assert agreement["agreement_low"] <= agreement["agreement"] <= agreement["agreement_high"]
    assert agreement["longer_agreement"] == 1.0
    losses = made["policy"].metrics["loss"]
    assert losses[-1] < losses[0]
    assert made["policy"].metrics["drawn"]["ratings"] <= made["ratings"].manifest.rows


def test_what_the_base_model_was_before_is_measured_too(people: RunConfig) -> None:
    people.tuning.demonstrations.held_out = 5
    (made,) = run_loop(people)
    base = made["policy"].manifest.parents["policy"]
    assert made["base_agreement"].manifest.parents["policy"] == base
    assert made["base_imitation"].manifest.parents["policy"] == base
    assert made["base_imitation"].metrics["texts"] == made["imitation"].metrics["texts"]
    assert made["base_parity"].manifest.parents["policy"] == base


@pytest.mark.parametrize(("half", "left"), [("most_demonstrations", "ratings"), ("most_ratings", "demonstrations")])
def test_each_half_can_be_learned_alone_and_both_are_still_measured(people: RunConfig, half: str, left: str) -> None:
    people.tuning.demonstrations.held_out = 5
    setattr(people.tuning, half, 0)
    (made,) = run_loop(people)
    assert made["policy"].metrics["examples"] == len(made[left].read(record(left)))
    assert {"agreement", "imitation", "base_agreement", "base_imitation"} <= made.keys()


@pytest.mark.parametrize(("most_ratings", "weight"), [(None, 4.0), (0, 1.0)])
def test_beside_ratings_an_answer_weighs_more(
    people: RunConfig, monkeypatch: pytest.MonkeyPatch, most_ratings: int | None, weight: float
) -> None:
    people.tuning.most_ratings = most_ratings
    taught: list[Example] = []

    def noted(examples: list[Example], *others: Any) -> Metrics:
        taught.extend(examples)
        return tune_on(examples, *others)

    monkeypatch.setattr("selfreward.stages.tune.tune_on", noted)
    run_loop(people)
    answers = [example for example in taught if len(example.completion_ids) > 1]  # a score is one token
    assert {example.weight for example in answers} == {weight}
    scores = {example.weight for example in taught if example not in answers}
    assert scores == ({1.0} if most_ratings is None else set())


def test_no_prompt_to_measure_by_is_learned_from(people: RunConfig) -> None:
    (made,) = run_loop(people)
    learned = {row.prompt for row in made["demonstrations"].read(Demonstration)}
    assert (
        learned == {row.prompt for row in made["ratings"].read(Rating)} == {f"Is {n} a number?" for n in range(10, 40)}
    )
    assert made["ratings"].metrics["left_out"] == {"is a prompt that is kept to measure by": 20}


def test_the_loop_goes_on_from_the_tuned_policy_which_judges_and_opposes(people: RunConfig) -> None:
    people.iteration = 1
    first, second = run_loop(people)
    tuned_to = first["policy"].full_id
    assert second["candidates"].manifest.parents["policy"] == tuned_to
    assert second["policy"].manifest.parents["reference"] == tuned_to
    assert second["evaluation"].manifest.parents["judge"] == tuned_to
    assert second["policy"].metrics["loss"][0] == pytest.approx(0.6931, abs=1e-3)
    assert "agreement" in second


@pytest.mark.parametrize(("verdicts", "lessons"), [("expected", 1), ("sampled", 1), ("both", 2), ("duels", 2)])
def test_each_rating_is_taught_in_the_modes_that_are_asked_for(people: RunConfig, verdicts: str, lessons: int) -> None:
    people.tuning.demonstrations.path, people.tuning.verdicts = None, verdicts
    (made,) = run_loop(people)
    assert made["policy"].metrics["examples"] == lessons * 2 * 30


def test_an_independent_judge_learns_from_ratings_that_no_policy_learns_from(people: RunConfig) -> None:
    people.iteration, people.evaluation.judge, people.tuning.ratings.held_out = 1, "independent", 10
    first, second = run_loop(people)
    learned = {row.prompt for name in ("demonstrations", "ratings") for row in first[name].read(record(name))}
    kept = {row.prompt for row in first["independent_judge_ratings"].read(Rating)}
    assert kept and not learned & kept
    for judged, parent in (("evaluation", "judge"), ("held_out_judgements", "policy")):
        assert second[judged].manifest.parents[parent] == first["independent_judge"].full_id
    assert second["judgements"].manifest.parents["policy"] == first["policy"].full_id
    assert separate_judge(second["evaluation"].manifest) == "an independent judge"
    assert first["independent_judge_agreement"].manifest.parents["policy"] == first["independent_judge"].full_id


def test_an_independent_judge_learns_from_all_ratings_kept_for_it_whatever_policy_0_learns(people: RunConfig) -> None:
    people.evaluation.judge, people.tuning.ratings.held_out = "independent", 15
    people.tuning.most_ratings = 0
    (made,) = run_loop(people)
    kept = made["independent_judge_ratings"].manifest.rows
    assert (
        kept and made["independent_judge"].metrics["examples"] == 2 * kept
    )  # each rating, and two duels of each prompt
    assert made["policy"].metrics["examples"] == made["demonstrations"].manifest.rows


def test_of_ratings_kept_for_a_judge_those_measured_by_are_counted_alone(people: RunConfig) -> None:
    people.evaluation.judge, people.tuning.ratings.held_out = "independent", 15
    (made,) = run_loop(people)
    lost = made["independent_judge_ratings"].metrics["left_out"].get("is a prompt that is kept to measure by", 0)
    assert 0 < lost == 30 - made["independent_judge_ratings"].manifest.rows


def test_where_nothing_is_to_be_learned_policy_0_is_the_base_model_and_measured_all_the_same(people: RunConfig) -> None:
    people.tuning.most_demonstrations, people.tuning.demonstrations.held_out = 0, 5
    people.tuning.most_ratings = 0
    recorder = Recorder()
    (made,) = run_loop(people, recorder)
    assert not people.tunes
    assert made["policy"].metrics == {} and not {"demonstrations", "ratings"} & made.keys()
    assert recorder.computed.count("policies") == 1
    assert {"agreement", "imitation"} <= made.keys()


def record(name: str) -> type[Any]:
    return Demonstration if name == "demonstrations" else Rating


def test_answers_kept_apart_show_how_likely_each_policy_finds_them(people: RunConfig) -> None:
    people.tuning.demonstrations.held_out, people.tuning.epochs = 5, MANY
    (tuned,) = run_loop(people)
    people.tuning.learning_rate, people.tuning.epochs = 1e-6, 1
    (hardly,) = run_loop(people)
    apart = {row.prompt for row in tuned["demonstrations_held_out"].read(Demonstration)}
    assert apart and not apart & {row.prompt for row in tuned["demonstrations"].read(Demonstration)}
    assert tuned["imitation"].metrics["texts"] == len(apart)
    assert tuned["imitation"].metrics["perplexity"] < hardly["imitation"].metrics["perplexity"] / 2


def test_policy_0_is_the_reference_of_every_iteration_where_it_is_asked_for(people: RunConfig) -> None:
    people.iteration, people.train.reference = 2, "policy_0"
    first, _, third = run_loop(people)
    assert third["policy"].manifest.parents["reference"] == first["policy"].full_id


def test_a_tuned_policy_0_is_held_against_training_with_its_adapter(people: RunConfig) -> None:
    people.tuning.epochs = MANY
    (made,) = run_loop(people)
    assert made["parity"].manifest.parents["policy"] == made["policy"].full_id
    assert made["parity"].metrics["adapter_share"] == pytest.approx(1, abs=0.1)


def test_examples_that_are_all_too_long_name_the_setting(people: RunConfig) -> None:
    people.tuning.max_length, people.tuning.demonstrations.path = 20, None
    with pytest.raises(ConfigError, match=r"^tuning.max_length=20: each of the \d+ examples is longer; raise it$"):
        run_loop(people)


def test_an_example_beyond_what_the_model_takes_names_the_setting(people: RunConfig, tmp_path: Path) -> None:
    people.model.name = shutil.copytree(people.model.name, tmp_path / "short").as_posix()
    settings = tmp_path / "short" / "config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"max_position_embeddings": 200}))
    said = r"^tuning.max_length=1024: an example has \d+ tokens, and the model takes 200; lower it to that$"
    with pytest.raises(ConfigError, match=said):
        run_loop(people)


def test_tuned_again_nothing_is_computed(people: RunConfig) -> None:
    run_loop(people)
    again = Recorder()
    run_loop(people, again)
    assert again.computed == []


def test_an_answer_that_is_measured_by_is_not_learned_under_another_request(people: RunConfig, tmp_path: Path) -> None:
    answer = "One, two and three are numbers, and so are all that come after them."
    rows = [{"prompt": f"Tell me about number {n}, please.", "response": f"It is {n}."} for n in range(20)]
    path = tmp_path / "answers.jsonl"
    people.tuning.demonstrations.format, people.tuning.demonstrations.path = "columns", str(path)
    people.tuning.demonstrations.held_out, people.tuning.epochs = 19, 1
    people.gate.contamination = "drop"
    rows += [{"prompt": f"What are numbers, {name}?", "response": answer} for name in ("Ann", "Ben", "Cleo", "Dan")]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (made,) = run_loop(people)
    measured = {row.response for row in made["demonstrations_held_out"].read(Demonstration)}
    learned = {row.response for row in made["demonstrations"].read(Demonstration)}
    assert answer in measured and learned and answer not in learned
