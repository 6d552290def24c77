"""The real model, through two iterations by the command that people use."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from selfreward.compose import compose_run
from selfreward.engines.base import Decoding, SampleRequest
from selfreward.engines.hf import HFEngine
from selfreward.model import model_files
from selfreward.model.adapters import WEIGHTS_FILE, Adapter
from selfreward.model.models import Models
from selfreward.records import Candidate, Judgement
from selfreward.run import run
from selfreward.stages.parity import adapter_share
from selfreward.store import Artifact, Manifest, digests
from selfreward.training.reference import PARITY_TOLERANCE


@pytest.mark.slow
def test_two_iterations_on_the_real_model(tmp_path: Path) -> None:
    folder = tmp_path / "outputs" / "run"
    settings = ["experiment=quick", "iteration=2", "prompts.per_iteration=2", f"output_dir={folder}"]
    large_steps = "train.learning_rate=1e-3"  # what they change is more than bfloat16's rounding on every kind of CPU
    cfg = compose_run([*settings, large_steps, "tracking.wandb=disabled"])
    assert 0 <= run(cfg, {}, folder) <= 1
    assert (folder / "report.html").is_file()
    assert digests(tmp_path / "outputs" / "artifacts")

    first, second = (folder / "iterations" / number / "policy" for number in ("1", "2"))
    weights = [load_file(policy / WEIGHTS_FILE) for policy in (first, second)]
    assert weights[0].keys() == weights[1].keys()
    assert any((weights[0][name] != weights[1][name]).any() for name in weights[0])

    models = Models(model_files.locate(cfg.model.name, None), cfg.model.dtype, "auto")
    engine = HFEngine(models, rows=8, scoring_tokens=2048, merge_adapter=False)
    _policy_2_generates_text(engine, second)
    _the_engine_was_held_against_training(engine, models.dtype, folder)
    _scores_are_real(folder)


def _policy_2_generates_text(engine: HFEngine, policy: Path) -> None:
    """What it says differs from policy to policy and from CPU to CPU; that it is language does not."""
    adapter = Adapter(policy.resolve().name, policy.resolve())
    request = SampleRequest(engine.chat.render("Name three colours."), [1])
    (completion,) = engine.sample([request], Decoding(0.0, 1.0, 24), adapter, lambda *_: None)[0]
    token_ids = completion.token_ids
    (by_the_base_model,) = engine.logprobs([request.prompt_ids], [token_ids], None, lambda *_: None)
    assert np.mean(by_the_base_model) > -4, engine.chat.decode(token_ids)  # random tokens: -15


def _the_engine_was_held_against_training(engine: HFEngine, dtype: torch.dtype, folder: Path) -> None:
    """It agrees under policy 2; without the adapter it would have been found."""
    before, after = _artifact(folder, 0, "parity"), _artifact(folder, 2, "parity")
    assert after.metrics["difference"] < PARITY_TOLERANCE[dtype] / 2
    assert after.metrics["adapter_share"] > 0.5
    answers = after.read(Candidate)
    prompts, completions = [a.prompt_ids for a in answers], [a.token_ids for a in answers]
    forgetful = np.concatenate(engine.logprobs(prompts, completions, None, lambda *_: None))
    training = np.concatenate([answer.logprobs for answer in answers])
    without = np.concatenate([answer.logprobs for answer in before.read(Candidate)])
    share = adapter_share(forgetful, (training, training), (without, without))
    assert share is not None and not share.is_whole


def _scores_are_real(folder: Path) -> None:
    judgements = _artifact(folder, 2, "judgements").read(Judgement)
    assert all(0 < (j.score or 0) < 5 and (j.score_mass or 0) > 0.3 for j in judgements)
    assert all(candidate.text for candidate in _artifact(folder, 2, "candidates").read(Candidate))


def _artifact(folder: Path, iteration: int, name: str) -> Artifact:
    place = (folder / "iterations" / str(iteration) / name).resolve()
    manifest = Manifest.read(place)
    assert manifest is not None
    return Artifact(place, manifest)
