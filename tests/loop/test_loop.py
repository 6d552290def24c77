"""What `iteration=N` means, on a tiny model."""

from __future__ import annotations

import copy
import itertools
import math
from pathlib import Path
from types import ModuleType

import pytest
import torch

from selfreward.config import RunConfig, artifacts_dir
from selfreward.errors import ConfigError, NoPairsError
from selfreward.records import Candidate, Judgement, PreferencePair
from selfreward.store import digests
from tests.loop.helpers import Recorder, make_store, run_loop

ONE_ITERATION = [
    "prompts",
    "gate",
    "candidates",
    "judgements",
    "pairs",
    "references",
    "policies",
    "parity",
    "candidates",
    "judgements",
    "evaluations",
]


def test_the_same_call_again_computes_nothing(tiny_config: RunConfig) -> None:
    first, second = Recorder(), Recorder()
    made = run_loop(tiny_config, first)
    again = run_loop(tiny_config, second)
    assert first.computed[-len(ONE_ITERATION) :] == ONE_ITERATION
    assert second.computed == []
    assert [i["policy"].id for i in again] == [i["policy"].id for i in made]


def test_one_iteration_more_costs_one_iteration(tiny_config: RunConfig) -> None:
    run_loop(tiny_config)
    tiny_config.iteration = 2
    recorder = Recorder()
    run_loop(tiny_config, recorder)
    assert recorder.computed == ONE_ITERATION


def test_policies_differ_and_each_names_its_parent(tiny_config: RunConfig) -> None:
    tiny_config.iteration = 3
    made = run_loop(tiny_config)
    weights = [i["policy"].manifest.files["adapter_model.safetensors"].sha256 for i in made[1:]]
    assert len(set(weights)) == 3
    for earlier, later in itertools.pairwise(made):
        assert later["policy"].manifest.parents["policy"] == earlier["policy"].full_id
        assert later["candidates"].manifest.parents["policy"] == earlier["policy"].full_id
        assert later["references"].manifest.parents["policy"] == earlier["policy"].full_id


def test_iterations_take_different_prompts_and_none_that_is_held_out(tiny_config: RunConfig) -> None:
    tiny_config.iteration = 2
    made = run_loop(tiny_config)
    first, second = ({c.prompt_id for c in i["candidates"].read(Candidate)} for i in made[1:])
    held_out = {c.prompt_id for c in made[0]["held_out_candidates"].read(Candidate)}
    assert not first & second
    assert not (first | second) & held_out


def test_each_prompt_has_as_many_candidates_as_asked_for(tiny_config: RunConfig) -> None:
    tiny_config.sampling.n = 5
    made = run_loop(tiny_config)
    candidates = made[1]["candidates"].read(Candidate)
    assert len(candidates) == 5 * tiny_config.prompts.per_iteration
    assert {c.index for c in candidates} == set(range(5))
    assert all(1 <= len(c.token_ids) <= tiny_config.sampling.max_new_tokens for c in candidates)
    assert all(len(c.logprobs) == len(c.token_ids) for c in candidates)


def test_pairs_hold_the_ids_and_log_probabilities_that_were_sampled(tiny_config: RunConfig) -> None:
    made = run_loop(tiny_config)[1]
    candidates = {(c.prompt_id, c.index): c for c in made["candidates"].read(Candidate)}
    scores = {(j.prompt_id, j.index): j.score for j in made["judgements"].read(Judgement)}
    pairs = made["pairs"].read(PreferencePair)
    assert pairs
    for pair in pairs:
        chosen = candidates[pair.prompt_id, pair.chosen_index]
        assert (pair.prompt_ids, pair.chosen_ids) == (chosen.prompt_ids, chosen.token_ids)
        assert pair.chosen_logprobs == chosen.logprobs
        assert pair.chosen_score == scores[pair.prompt_id, pair.chosen_index]
        assert pair.chosen_score > pair.rejected_score


def test_training_begins_at_a_loss_of_ln_2_in_every_iteration(tiny_config: RunConfig) -> None:
    tiny_config.iteration = 2
    for iteration in run_loop(tiny_config)[1:]:
        assert iteration["policy"].metrics["loss"][0] == pytest.approx(math.log(2), abs=1e-6)
        assert iteration["policy"].metrics["reward_margin"][0] == pytest.approx(0, abs=1e-6)


def test_with_the_base_as_reference_a_later_iteration_begins_away_from_it(tiny_config: RunConfig) -> None:
    tiny_config.iteration = 2
    tiny_config.train.reference = "policy_0"
    tiny_config.train.learning_rate = 1e-2
    made = run_loop(tiny_config)
    assert abs(made[2]["policy"].metrics["loss"][0] - math.log(2)) > 1e-4
    assert [i["references"].manifest.parents["policy"] for i in made[1:]] == [made[0]["policy"].full_id] * 2


def test_a_sweep_over_beta_samples_judges_and_scores_the_reference_once(tiny_config: RunConfig) -> None:
    run_loop(tiny_config)
    other = copy.deepcopy(tiny_config)
    other.train.beta = 0.2
    other.output_dir = str(Path(tiny_config.output_dir).parent / "other")
    recorder = Recorder()
    run_loop(other, recorder)
    assert recorder.computed == ["policies", "parity", "candidates", "judgements", "evaluations"]
    assert "references" in recorder.reused


def test_equal_settings_give_equal_bytes_in_another_folder(tiny_config: RunConfig, tmp_path: Path) -> None:
    other = copy.deepcopy(tiny_config)
    other.output_dir = str(tmp_path / "elsewhere" / "run")
    run_loop(tiny_config)
    run_loop(other)
    assert digests(artifacts_dir(tiny_config)) == digests(artifacts_dir(other))


def test_sampled_judgements_that_say_nothing_leave_no_pairs_and_say_so(tiny_config: RunConfig) -> None:
    tiny_config.judge.mode = "sampled"  # a random model writes no verdicts
    recorder = Recorder()
    with pytest.raises(NoPairsError, match=r"6 without two scores"):
        run_loop(tiny_config, recorder)
    assert recorder.computed[-1] == "judgements"


def test_the_length_judge_prefers_longer_candidates(tiny_config: RunConfig) -> None:
    tiny_config.judge.kind = "length"
    pairs = run_loop(tiny_config)[1]["pairs"].read(PreferencePair)
    candidates = make_store(tiny_config).tools.models.chat
    for pair in pairs:
        longer, shorter = candidates.decode(pair.chosen_ids), candidates.decode(pair.rejected_ids)
        assert len(longer.split()) > len(shorter.split())


def test_a_prompt_too_long_for_the_model_is_left_out_and_counted(tiny_config: RunConfig) -> None:
    tiny_config.sampling.max_prompt_tokens = 60
    made = run_loop(tiny_config)[1]["candidates"]
    assert made.metrics["prompts_too_long"] > 0
    assert made.metrics["prompts_too_long"] + made.metrics["prompts"] == tiny_config.prompts.per_iteration
    assert all(len(c.prompt_ids) <= 60 for c in made.read(Candidate))


def test_prompts_that_are_all_too_long_are_a_mistake_with_a_remedy(tiny_config: RunConfig) -> None:
    tiny_config.sampling.max_prompt_tokens = 1
    with pytest.raises(ConfigError, match="all 4 prompts are longer; raise it"):
        run_loop(tiny_config)


@pytest.mark.parametrize(("device", "found_by"), [("cuda", torch.cuda), ("mps", torch.backends.mps)])
def test_a_device_that_is_not_there_is_a_mistake_with_a_remedy_and_found_before_any_model_loads(
    tiny_config: RunConfig, monkeypatch: pytest.MonkeyPatch, device: str, found_by: ModuleType
) -> None:
    monkeypatch.setattr(found_by, "is_available", lambda: False)
    tiny_config.engine.device = device
    recorder = Recorder()
    said = rf"^engine.device={device}: PyTorch finds no such device here; use auto, or a PyTorch built for it$"
    with pytest.raises(ConfigError, match=said):
        run_loop(tiny_config, recorder)
    assert recorder.computed == ["policies", "prompts"]


def test_every_answer_is_compared_with_the_baseline_in_both_orders(tiny_config: RunConfig) -> None:
    metrics = run_loop(tiny_config)[1]["evaluation"].metrics
    assert metrics["answers"] == tiny_config.prompts.held_out
    assert metrics["win_rate_low"] <= metrics["win_rate"] <= metrics["win_rate_high"]
    assert {"order_agreement", "length_win_rate", "distinct_1", "distinct_2", "parse_failure_rate"} <= metrics.keys()


def test_a_run_on_the_cpu_leaves_a_gpu_alone(tiny_config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("selfreward.stages.tools.enforce_cap", lambda cap_gb: pytest.fail("a GPU was taken"))
    tiny_config.engine.device = "cpu"
    assert make_store(tiny_config).tools.models.device.type == "cpu"
