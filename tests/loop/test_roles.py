"""Another engine may judge, and another evaluate: one with the run's own model, or one with a model from outside."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from selfreward.config import EngineConfig, RunConfig
from selfreward.engines import ENGINES, Host
from selfreward.engines.base import Advance
from selfreward.engines.hf import HFEngine
from selfreward.errors import ConfigError, ParityError, ServerError
from selfreward.judges import rubric
from selfreward.judges.base import JudgeContext
from selfreward.judges.pairwise import Duel, prefer
from selfreward.kinds import check_settings
from selfreward.model.adapters import Adapter
from selfreward.model.models import Models
from selfreward.records import Candidate, Comparison, Judgement
from selfreward.store import Artifact
from tests.loop.helpers import Recorder, make_store, run_loop
from tests.tiny import save_tiny_model


class Outside(HFEngine):
    """An engine that runs a model of its own; it refuses adapters, which are another model's."""

    def score(
        self, prompts: Sequence[list[int]], choice_ids: Sequence[int], adapter: Adapter | None, advance: Advance
    ) -> list[list[float]]:
        assert adapter is None
        return super().score(prompts, choice_ids, None, advance)


def load_outside(host: Host, key: str, engine: EngineConfig) -> Outside:
    return Outside(Models(Path(engine.tokenizer or ""), "float32", "cpu"), 64, 2048, merge_adapter=False)


@pytest.fixture
def outside(tiny_config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HFEngine:
    """Another model, known to the run as the engine `outside`."""
    folder = save_tiny_model(tmp_path / "outside", seed=1)
    monkeypatch.setitem(ENGINES, "server", load_outside)
    there: dict[str, Any] = {"kind": "server", "base_url": "http://elsewhere/v1", "model": "theirs"}
    tiny_config.engines = {"outside": EngineConfig(tokenizer=str(folder), **there)}
    return HFEngine(Models(folder, "float32", "cpu"), 64, 2048, merge_adapter=False)


def scores(artifact: Artifact) -> list[float | None]:
    return [judgement.score for judgement in artifact.read(Judgement)]


def expected(candidates: Artifact, cfg: RunConfig, engine: HFEngine, adapter: Adapter | None = None) -> list[Any]:
    """The scores that `engine` gives when it is asked alone."""
    context = JudgeContext(engine, adapter, cfg.seed, lambda *_: None)
    judgements = rubric.judge(candidates.read(Candidate), cfg.judge, context)
    return [pytest.approx(judgement.score, abs=1e-4) for judgement in judgements]


def test_an_outside_judge_scores_the_candidates_of_every_policy_and_policy_0_still_evaluates(
    tiny_config: RunConfig, outside: HFEngine
) -> None:
    tiny_config.iteration = 2
    tiny_config.judge.engine = "outside"
    check_settings(tiny_config)
    made = run_loop(tiny_config)
    policy_0 = make_store(tiny_config).tools.engine_of("sampling")
    assert isinstance(policy_0, HFEngine)
    for iteration in made[1:]:
        assert scores(iteration["judgements"]) == expected(iteration["candidates"], tiny_config, outside)
        held_out = iteration["held_out_candidates"]
        assert scores(iteration["held_out_judgements"]) == expected(held_out, tiny_config, policy_0)


def test_an_outside_judge_that_can_not_be_reached_stops_the_run_before_anything_is_sampled(
    tiny_config: RunConfig,
) -> None:
    there: dict[str, Any] = {"base_url": "http://127.0.0.1:9/v1", "model": "theirs", "retries": 0}
    tiny_config.engines = {"outside": EngineConfig("server", tokenizer=tiny_config.model.name, **there)}
    tiny_config.judge.engine = "outside"
    recorder = Recorder()
    with pytest.raises(ServerError, match=r"^engines\.outside\.base_url=http://127\.0\.0\.1:9/v1: "):
        run_loop(tiny_config, recorder)
    assert recorder.computed == ["policies", "prompts"]


def test_a_tokenizer_that_is_not_there_is_named_with_its_key(tiny_config: RunConfig) -> None:
    there: dict[str, Any] = {"base_url": "http://127.0.0.1:9/v1", "model": "theirs"}
    tiny_config.engines = {"outside": EngineConfig("server", tokenizer="/nowhere/tokenizer", **there)}
    tiny_config.evaluation.engine = "outside"
    with pytest.raises(ConfigError, match=r"^engines\.outside\.tokenizer=/nowhere/tokenizer: is neither a folder nor"):
        run_loop(tiny_config)


def test_of_an_outside_judge_nothing_is_said_as_of_the_base_model_s(
    tiny_config: RunConfig, outside: HFEngine, tmp_path: Path
) -> None:
    """It is the same before and after policy 0 is tuned."""
    rows = [
        {"prompt": f"Is {n} a number?", "response": answer, "score": score}
        for n in range(8)
        for answer, score in (("Yes.", 5), ("No.", 0))
    ]
    for name, some, file in (
        ("ratings", rows[:12], tiny_config.tuning.ratings),
        ("people", rows[12:], tiny_config.people),
    ):
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in some))
        file.path = str(path)
    tiny_config.iteration, tiny_config.judge.engine = 0, "outside"
    (made,) = run_loop(tiny_config)
    assert "policy" not in made["agreement"].manifest.parents
    assert "base_agreement" not in made


def test_an_outside_judge_scores_held_out_answers_and_decides_duels_and_policies_still_judge_themselves(
    tiny_config: RunConfig, outside: HFEngine
) -> None:
    tiny_config.evaluation.engine = "outside"
    check_settings(tiny_config)
    policy_0, first = run_loop(tiny_config)
    for iteration in (policy_0, first):
        held_out = iteration["held_out_candidates"]
        assert scores(iteration["held_out_judgements"]) == expected(held_out, tiny_config, outside)
    duels = first["evaluation"].read(Comparison)
    asked = [Duel(duel.prompt, duel.text, duel.baseline_text) for duel in duels]
    preferred = prefer(asked, JudgeContext(outside, None, 0, lambda *_: None))
    given = [(duel.preference_first, duel.preference_second, duel.choice_mass) for duel in duels]
    assert given == [pytest.approx((p.first, p.second, p.mass), abs=1e-4) for p in preferred]
    own = make_store(tiny_config).tools.engine_of("judge")
    assert isinstance(own, HFEngine)
    assert scores(first["judgements"]) == expected(first["candidates"], tiny_config, own)


def test_naming_another_judge_of_duels_later_trains_nothing_again(tiny_config: RunConfig, outside: HFEngine) -> None:
    run_loop(tiny_config)
    tiny_config.evaluation.engine = "outside"
    recorder = Recorder()
    run_loop(tiny_config, recorder)
    assert recorder.computed == ["judgements", "evaluations", "judgements", "evaluations"]


def test_another_engine_for_the_runs_own_model_judges_with_the_policys_adapter(tiny_config: RunConfig) -> None:
    tiny_config.iteration = 2
    tiny_config.engines = {"again": EngineConfig(merge_adapter=True)}
    tiny_config.judge.engine = "again"
    _, first, second = run_loop(tiny_config)
    tools = make_store(tiny_config).tools
    own = tools.engine_of("sampling")
    assert isinstance(own, HFEngine)
    judged = scores(second["judgements"])
    assert judged == expected(second["candidates"], tiny_config, own, tools.adapter(first["policy"]))
    assert judged != expected(second["candidates"], tiny_config, own)


class Other(HFEngine):
    """Runs another model than the run's, and nobody said so."""

    def logprobs(
        self, prompts: Sequence[list[int]], completions: Sequence[list[int]], adapter: Adapter | None, advance: Advance
    ) -> list[list[float]]:
        return [[p - 5 for p in row] for row in super().logprobs(prompts, completions, adapter, advance)]


@pytest.mark.parametrize("role", ["judge", "evaluation"])
def test_a_further_engine_whose_tokenizer_is_not_named_must_run_the_run_s_model(
    tiny_config: RunConfig, monkeypatch: pytest.MonkeyPatch, role: str
) -> None:
    def other(host: Host, key: str, engine: EngineConfig) -> HFEngine:
        return Other(host.models(), 64, 2048, merge_adapter=False)

    monkeypatch.setitem(ENGINES, "server", other)
    tiny_config.engines = {"theirs": EngineConfig(kind="server", base_url="http://elsewhere/v1")}
    getattr(tiny_config, role).engine = "theirs"
    said = r"^engines\.theirs\.kind=server: .* 5 nats a token off .*name the tokenizer .* as engines\.theirs\.tokenizer"
    with pytest.raises(ParityError, match=said):
        run_loop(tiny_config)
    tiny_config.engines["theirs"].parity_limit = 6.0
    assert run_loop(tiny_config)[0][f"{role}_parity"].metrics["difference"] == pytest.approx(5, abs=0.01)


def test_of_two_servers_each_is_held_against_training(tiny_config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def served(host: Host, key: str, engine: EngineConfig) -> HFEngine:
        kind = Other if engine.base_url == "http://wrong/v1" else HFEngine
        return kind(host.models(), 64, 2048, merge_adapter=False)

    monkeypatch.setitem(ENGINES, "server", served)
    for name in ("right", "wrong"):
        tiny_config.engines[name] = EngineConfig(kind="server", base_url=f"http://{name}/v1")
    tiny_config.judge.engine, tiny_config.evaluation.engine = "right", "wrong"
    with pytest.raises(ParityError, match=r"^engines\.wrong\.kind=server: "):
        run_loop(tiny_config)
