"""Policy 0 learns to answer and to judge from people before the loop begins."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from selfreward.config import LoraConfig, MemoryConfig, RunConfig, SpeedConfig, TuningConfig
from selfreward.errors import ConfigError, TrainingError
from selfreward.records import Demonstration, Rating
from selfreward.stages.tune import tune_on
from selfreward.store import Metrics, Work
from selfreward.store.observer import NoMeter
from selfreward.tracking.metrics import outside_judge
from selfreward.training.examples import Example
from selfreward.training.tuning import ExampleTrainer, TuningSettings, tune
from tests.loop.helpers import Recorder, run_loop
from tests.training import trainable

LORA = LoraConfig(r=4, alpha=8)
FAST = SpeedConfig()
RUBRIC = [1, *range(10, 22)]
EXAMPLES = [
    Example([*RUBRIC, 44], [80], 81, 0.25),
    Example([1, 40, 50], [60, 2]),
    Example([1, 45], [70, 71, 72, 2], weight=3.0),
    Example([*RUBRIC, 41, 42, 43], [82], 83, 0.5),
]


def tuned(
    model: Path,
    folder: Path,
    speed: SpeedConfig = FAST,
    learning_rate: float = 2e-4,
    size: int = len(EXAMPLES),
    tokens: int = 1000,
    computed: list[int] | None = None,
    attention: str = "eager",
    checkpointing: bool = False,
) -> tuple[Metrics, dict[str, torch.Tensor]]:
    """Metrics of two steps on all examples, and the adapter that came of them. `computed`: tokens of each forward pass
    are added to it."""
    tuning = TuningConfig(batch_size=len(EXAMPLES), epochs=2, warmup_ratio=0.0, learning_rate=learning_rate)
    how = TuningSettings(tuning, MemoryConfig(), speed, size, tokens, checkpointing, preflight=False)
    with trainable(model, speed, LORA, attention) as (policy, tokenizer), NoMeter().measure() as peak:
        if computed is not None:
            base: Any = policy.get_base_model()
            base.base_model.register_forward_pre_hook(
                lambda module, args, kwargs: computed.append(kwargs["input_ids"].numel()), with_kwargs=True
            )
        metrics = tune(policy, tokenizer, EXAMPLES, how, 0, Work(folder, 0, Recorder(), peak))
        weights = {n: p.detach().clone() for n, p in policy.named_parameters() if p.requires_grad}
    return metrics, weights


def plain_loss(model: Any, example: Example) -> torch.Tensor:
    """The mean cross-entropy of a completion, by the model's own logits; its last token is half another one."""
    ids = torch.tensor([example.prompt_ids + example.completion_ids])
    logprobs = model(input_ids=ids).logits[0].log_softmax(-1)
    places = range(len(example.prompt_ids) - 1, ids.shape[1] - 1)
    loss = -torch.stack([logprobs[place, ids[0, place + 1]] for place in places]).mean()
    other = -logprobs[ids.shape[1] - 2, example.other_id]
    return (1 - example.other_weight) * loss + example.other_weight * other


@pytest.mark.parametrize("speed", [SpeedConfig(), SpeedConfig(share_prompt=False)], ids=["packed", "padded"])
def test_the_loss_is_the_cross_entropy_of_completions_with_soft_scores(
    tiny_model: Path, tmp_path: Path, speed: SpeedConfig
) -> None:
    metrics, _ = tuned(tiny_model, tmp_path, speed=speed)
    with trainable(tiny_model, speed, LORA) as (model, _):
        expected = torch.stack([example.weight * plain_loss(model, example) for example in EXAMPLES]).mean()
    assert metrics["loss"][0] == pytest.approx(expected.item(), rel=1e-3)


def test_packed_or_padded_the_same_is_learned(tiny_model: Path, tmp_path: Path) -> None:
    _, packed = tuned(tiny_model, tmp_path / "packed")
    _, padded = tuned(tiny_model, tmp_path / "padded", speed=SpeedConfig(share_prompt=False))
    for name, weight in packed.items():
        assert torch.allclose(weight, padded[name], atol=1e-5), name


@pytest.mark.parametrize("speed", [SpeedConfig(), SpeedConfig(share_prompt=False)], ids=["packed", "padded"])
@pytest.mark.parametrize(("size", "tokens"), [(1, 1000), (2, 1000), (4, 20), (4, 1)])
def test_however_a_step_is_cut_the_same_is_learned(
    tiny_model: Path, tmp_path: Path, speed: SpeedConfig, size: int, tokens: int
) -> None:
    whole, expected = tuned(tiny_model, tmp_path / "whole", speed=speed)
    parts, found = tuned(tiny_model, tmp_path / "parts", speed=speed, size=size, tokens=tokens)
    assert parts["loss"] == pytest.approx(whole["loss"], rel=1e-4)
    for name, weight in expected.items():
        assert torch.allclose(weight, found[name], atol=1e-5), name


@pytest.mark.parametrize(
    ("size", "tokens", "share", "expected"),
    [
        (4, 1000, True, [13 + 2 + 4 + 5 + 6]),  # the rubric once
        (4, 20, True, [13 + 2 + 4, 5 + 6]),  # what begins alike is together
        (2, 1000, True, [13 + 2 + 4, 5 + 6]),
        (4, 1, True, [15, 17, 5, 6]),  # one example at least
        (4, 1000, False, [4 * 17]),
        (4, 34, False, [2 * 17, 2 * 6]),  # padding counts too
    ],
)
def test_a_micro_batch_has_no_more_tokens_or_examples_than_it_may(
    tiny_model: Path, tmp_path: Path, size: int, tokens: int, share: bool, expected: list[int]
) -> None:
    computed: list[int] = []
    speed = SpeedConfig(share_prompt=share)
    tuned(tiny_model, tmp_path, speed=speed, size=size, tokens=tokens, computed=computed)
    assert sorted(computed) == sorted(2 * expected)  # two steps


@pytest.mark.parametrize(("attention", "checkpointing"), [("sdpa", False), ("eager", True), ("sdpa", True)])
def test_what_is_shared_learns_from_all_that_share_it(
    tiny_model: Path, tmp_path: Path, attention: str, checkpointing: bool
) -> None:
    _, expected = tuned(tiny_model, tmp_path / "apart", speed=SpeedConfig(share_prompt=False))
    _, found = tuned(tiny_model, tmp_path / "shared", attention=attention, checkpointing=checkpointing)
    for name, weight in expected.items():
        assert torch.allclose(weight, found[name], atol=1e-5), name


def test_when_memory_runs_out_fewer_examples_are_computed_at_once(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fewer than were, which may be less than the most that are allowed."""
    whole = ExampleTrainer.compute_loss
    made: list[int] = []

    def compute_loss(self: ExampleTrainer, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        made.append(len(inputs["input_ids"]))
        if len(made) == 1:
            raise MemoryError
        return whole(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(ExampleTrainer, "compute_loss", compute_loss)
    metrics, _ = tuned(tiny_model, tmp_path, size=4, tokens=20)
    assert made == [2] + 8 * [1]
    assert metrics["micro_batch"] == 1


def test_nothing_learned_is_an_error_that_names_the_settings_of_tuning(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"left the adapter as it was: raise tuning.* set tuning.warmup_ratio=0"):
        tuned(tiny_model, tmp_path, learning_rate=1e-30)


def test_a_training_that_diverges_is_an_error(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_number(self: ExampleTrainer, model: Any, *_: Any, **__: Any) -> torch.Tensor:
        return next(p for p in model.parameters() if p.requires_grad).sum() * math.nan

    monkeypatch.setattr(ExampleTrainer, "compute_loss", no_number)
    with pytest.raises(TrainingError, match=r"training diverged, .*: lower tuning.learning_rate"):
        tuned(tiny_model, tmp_path)


# In a run


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
    cfg.iteration, cfg.tuning.epochs, cfg.tuning.learning_rate = 0, 16, 5e-3
    cfg.memory.micro_batch, cfg.memory.checkpoint_seconds = 8, 30  # many short steps: each would write a checkpoint
    return cfg


def test_the_judge_learns_what_people_like_on_prompts_that_it_did_not_see(people: RunConfig) -> None:
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
    people.tuning.epochs, people.tuning.demonstrations.held_out = 1, 5
    (made,) = run_loop(people)
    base = made["policy"].manifest.parents["policy"]
    assert made["base_agreement"].manifest.parents["policy"] == base
    assert made["base_imitation"].manifest.parents["policy"] == base
    assert made["base_imitation"].metrics["texts"] == made["imitation"].metrics["texts"]
    assert made["base_parity"].manifest.parents["policy"] == base


@pytest.mark.parametrize(("half", "left"), [("most_demonstrations", "ratings"), ("most_ratings", "demonstrations")])
def test_each_half_can_be_learned_alone_and_both_are_still_measured(people: RunConfig, half: str, left: str) -> None:
    people.tuning.epochs, people.tuning.demonstrations.held_out = 1, 5
    setattr(people.tuning, half, 0)
    (made,) = run_loop(people)
    assert made["policy"].metrics["examples"] == len(made[left].read(record(left)))
    assert {"agreement", "imitation", "base_agreement", "base_imitation"} <= made.keys()


@pytest.mark.parametrize(("most_ratings", "weight"), [(None, 4.0), (0, 1.0)])
def test_beside_ratings_an_answer_weighs_more(
    people: RunConfig, monkeypatch: pytest.MonkeyPatch, most_ratings: int | None, weight: float
) -> None:
    people.tuning.most_ratings, people.tuning.epochs = most_ratings, 1
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
    tuned_to = first["policy"].reference
    assert second["candidates"].manifest.parents["policy"] == tuned_to
    assert second["policy"].manifest.parents["reference"] == tuned_to
    assert second["evaluation"].manifest.parents["judge"] == tuned_to
    assert second["policy"].metrics["loss"][0] == pytest.approx(0.6931, abs=1e-3)
    assert "agreement" in second


@pytest.mark.parametrize(("verdicts", "lessons"), [("expected", 1), ("sampled", 1), ("both", 2), ("duels", 2)])
def test_each_rating_is_taught_in_the_modes_that_are_asked_for(people: RunConfig, verdicts: str, lessons: int) -> None:
    people.tuning.demonstrations.path, people.tuning.verdicts, people.tuning.epochs = None, verdicts, 1
    (made,) = run_loop(people)
    assert made["policy"].metrics["examples"] == lessons * 2 * 30


def test_an_independent_judge_learns_from_ratings_that_no_policy_learns_from(people: RunConfig) -> None:
    people.iteration, people.evaluation.judge, people.tuning.ratings.held_out = 1, "independent", 10
    first, second = run_loop(people)
    learned = {row.prompt for name in ("demonstrations", "ratings") for row in first[name].read(record(name))}
    kept = {row.prompt for row in first["grader_ratings"].read(Rating)}
    assert kept and not learned & kept
    for judged, parent in (("evaluation", "judge"), ("held_out_judgements", "policy")):
        assert second[judged].manifest.parents[parent] == first["grader"].reference
    assert second["judgements"].manifest.parents["policy"] == first["policy"].reference
    assert outside_judge(second["evaluation"].manifest) == "an independent judge"
    assert first["grader_agreement"].manifest.parents["policy"] == first["grader"].reference


def test_an_independent_judge_learns_from_all_ratings_kept_for_it_whatever_policy_0_learns(people: RunConfig) -> None:
    people.tuning.epochs, people.evaluation.judge, people.tuning.ratings.held_out = 1, "independent", 15
    people.tuning.most_ratings = 0
    (made,) = run_loop(people)
    kept = made["grader_ratings"].manifest.rows
    assert kept and made["grader"].metrics["examples"] == 2 * kept  # each rating, and two duels of each prompt
    assert made["policy"].metrics["examples"] == made["demonstrations"].manifest.rows


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
    people.tuning.demonstrations.held_out = 5
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
    assert third["policy"].manifest.parents["reference"] == first["policy"].reference


def test_a_tuned_policy_0_is_held_against_training_with_its_adapter(people: RunConfig) -> None:
    (made,) = run_loop(people)
    assert made["parity"].manifest.parents["policy"] == made["policy"].reference
    assert made["parity"].metrics["adapter_share"] == pytest.approx(1, abs=0.1)


def test_examples_that_are_all_too_long_name_the_setting(people: RunConfig) -> None:
    people.tuning.max_length, people.tuning.demonstrations.path = 20, None
    with pytest.raises(ConfigError, match=r"^tuning.max_length=20: each of the \d+ examples is longer; raise it$"):
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
