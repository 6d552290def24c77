"""An engine is held against training before each policy is used, and one that is another model stops the run."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from selfreward.config import EngineConfig, RunConfig
from selfreward.engines import ENGINES, Host
from selfreward.engines.base import Advance, Completion
from selfreward.engines.hf import HFEngine
from selfreward.errors import ParityError
from selfreward.model.adapters import Adapter
from selfreward.records import Candidate
from selfreward.stages.parity import Share, adapter_share, allowed
from selfreward.tracking.metrics import summary
from tests.loop.helpers import Recorder, run_loop


class Forgetful(HFEngine):
    """Gives log-probabilities without the adapter that it was asked for."""

    def logprobs(
        self, prompts: Sequence[list[int]], completions: Sequence[list[int]], adapter: Adapter | None, advance: Advance
    ) -> list[list[float]]:
        return super().logprobs(prompts, completions, None, advance)


class Off(HFEngine):
    """Gives log-probabilities that are `nats` off."""

    nats = 0.5

    def logprobs(
        self, prompts: Sequence[list[int]], completions: Sequence[list[int]], adapter: Adapter | None, advance: Advance
    ) -> list[list[float]]:
        return [[p + self.nats for p in row] for row in super().logprobs(prompts, completions, adapter, advance)]


class Lost(Off):
    nats = float("nan")


def use(engine: type[HFEngine], cfg: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the run be on `engine`."""

    def make(host: Host, key: str, settings: EngineConfig) -> HFEngine:
        return engine(host.models(), 64, 2048, merge_adapter=settings.merge_adapter)

    monkeypatch.setitem(ENGINES, "faulty", make)
    cfg.engine.kind = "faulty"


def test_the_engine_in_this_process_agrees_with_training_under_every_policy(tiny_config: RunConfig) -> None:
    tiny_config.iteration = 2
    iterations = run_loop(tiny_config)
    for iteration in iterations:
        metrics = iteration["parity"].metrics
        assert metrics["difference"] <= metrics["largest_difference"] < 1e-4
        assert metrics["rounding"] < 1e-5
        assert iteration["parity"].manifest.parents["policy"] == iteration["policy"].full_id
    assert [i["parity"].metrics["adapter_share"] for i in iterations] == [None, *[pytest.approx(1, abs=1e-2)] * 2]


def test_all_policies_are_measured_on_the_same_tokens_which_policy_0_wrote(tiny_config: RunConfig) -> None:
    iterations = run_loop(tiny_config)
    before, after = (iteration["parity"].read(Candidate) for iteration in iterations)
    assert [(c.prompt_ids, c.token_ids) for c in before] == [(c.prompt_ids, c.token_ids) for c in after]
    assert [c.logprobs for c in before] != [c.logprobs for c in after]
    held_out = {c.prompt_id for c in iterations[0]["held_out_candidates"].read(Candidate)}
    assert {c.prompt_id for c in before} <= held_out
    assert len(before) == iterations[0]["parity"].metrics["answers"] == 8


def test_what_was_measured_is_among_an_iterations_metrics(tiny_config: RunConfig) -> None:
    for iteration in run_loop(tiny_config):
        shown = {key: value for key, value in summary(iteration).items() if key.startswith("parity/")}
        named = ("difference", "largest_difference", "rounding", "adapter_share")
        metrics = iteration["parity"].metrics
        assert shown == {f"parity/{name}": metrics[name] for name in named if metrics[name] is not None}


def test_an_engine_that_forgets_the_adapter_is_found_before_the_policy_is_used(
    tiny_config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(Forgetful, tiny_config, monkeypatch)
    tiny_config.engine.parity_limit = 100.0
    recorder = Recorder()
    said = r"^engine.kind=faulty: it applies -?0.00 of the adapter of policies/\w{12} where .* how it loads adapters$"
    with pytest.raises(ParityError, match=said) as caught:
        run_loop(tiny_config, recorder)
    assert recorder.computed[-2:] == ["references", "policies"]
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(("engine", "nats"), [(Off, "0.5"), (Lost, "nan")])
def test_an_engine_that_is_too_far_off_is_found_before_anything_is_asked_of_it(
    engine: type[HFEngine], nats: str, tiny_config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(engine, tiny_config, monkeypatch)
    recorder = Recorder()
    said = rf"^engine.kind=faulty: .* are {nats} nats a token off .* more than 0.001: .* raise engine.parity_limit$"
    with pytest.raises(ParityError, match=said) as caught:
        run_loop(tiny_config, recorder)
    assert recorder.computed == ["policies", "prompts"]
    assert len(str(caught.value).splitlines()) == 1


def test_a_wider_limit_lets_it_through_and_a_narrower_one_measures_again(
    tiny_config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(Off, tiny_config, monkeypatch)
    tiny_config.engine.parity_limit = 1.0
    for iteration in run_loop(tiny_config):
        assert iteration["parity"].metrics["difference"] == pytest.approx(0.5, abs=1e-4)
    tiny_config.engine.parity_limit = 0.4
    with pytest.raises(ParityError, match=r"more than 0.4"):
        run_loop(tiny_config)


@pytest.mark.parametrize(
    ("limit", "rounding", "most"),
    [
        pytest.param(None, 0.01, 0.1, id="as the type of number allows"),
        pytest.param(None, 0.09, 0.18, id="a policy far from the answers, where training is that far off itself"),
        pytest.param(0.05, 0.09, 0.05, id="what was asked for"),
    ],
)
def test_rounding_alone_stops_no_run(limit: float | None, rounding: float, most: float) -> None:
    assert allowed(limit, "bfloat16", rounding) == most


def test_an_engine_is_used_after_it_was_measured_and_not_started_again(
    tiny_config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    happened: list[str] = []

    class Watched(HFEngine):
        def logprobs(self, *args: Any, **kwargs: Any) -> list[list[float]]:
            happened.append("measured")
            return super().logprobs(*args, **kwargs)

        def sample(self, *args: Any, **kwargs: Any) -> list[list[Completion]]:
            happened.append("used")
            return super().sample(*args, **kwargs)

        def close(self) -> None:
            happened.append("ended")

    use(Watched, tiny_config, monkeypatch)
    run_loop(tiny_config)
    assert happened.count("measured") == 2  # under policies 0 and 1
    for place in [place for place, name in enumerate(happened) if name == "measured"]:
        assert happened[place + 1] == "used"


# How much of an adapter is applied, where the numbers are as coarse as those of bfloat16

TOKENS, STEP, ROUNDING = 180, 0.05, 0.025  # nats, about as measured on SmolLM2-135M after four steps of training


def shares(of: Callable[[np.ndarray], np.ndarray], step: float, rounding: float = ROUNDING) -> list[Share]:
    """The shares found in 200 draws, where an engine takes `of` the step that training takes."""
    found: list[Share] = []
    for seed in range(200):
        draw = np.random.default_rng(seed)
        without = draw.normal(-1, 1, TOKENS)
        moved = draw.normal(0, step, TOKENS)
        noise = draw.normal(0, rounding, (5, TOKENS))
        training = without + moved + noise[1], without + moved + noise[2]
        share = adapter_share(without + of(moved) + noise[0], training, (without + noise[3], without + noise[4]))
        found.append(share or Share(0, math.inf))  # nothing can be told
    return found


def test_an_engine_that_forgets_an_adapter_is_found_though_it_changes_little_more_than_rounding() -> None:
    assert not any(share.is_whole for share in shares(lambda moved: 0 * moved, STEP))


@pytest.mark.parametrize("step", [0.0, STEP / 10, STEP, 10 * STEP])
@pytest.mark.parametrize("rounding", [ROUNDING, 4 * ROUNDING])
def test_one_that_applies_it_is_never_stopped_however_little_the_adapter_does(step: float, rounding: float) -> None:
    assert all(share.is_whole for share in shares(lambda moved: moved, step, rounding))


def test_one_that_applies_it_twice_is_found() -> None:
    assert not any(share.is_whole for share in shares(lambda moved: 2 * moved, 2 * STEP))


def test_an_adapter_that_changes_nothing_has_no_share() -> None:
    same = np.full(3, -1.0)
    assert adapter_share(same + 0.1, (same, same), (same, same)) is None
