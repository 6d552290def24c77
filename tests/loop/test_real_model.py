"""The real model, through two iterations by the command that people use."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file

from selfreward import model_files
from selfreward.adapters import WEIGHTS, Adapter
from selfreward.compose import compose_run
from selfreward.config import ModelConfig
from selfreward.engines.base import Decoding, SampleRequest
from selfreward.engines.hf import HFEngine
from selfreward.models import Models
from selfreward.records import Candidate, Judgement
from selfreward.run import run
from selfreward.store import Artifact, Manifest, digests


@pytest.mark.slow
def test_two_iterations_on_the_real_model(tmp_path: Path) -> None:
    folder = tmp_path / "outputs" / "run"
    cfg = compose_run(["experiment=quick", "iteration=2", f"output_dir={folder}", "tracking.wandb=offline"])
    assert 0 <= run(cfg, {}, folder) <= 1
    assert (folder / "report.html").is_file()
    assert digests(tmp_path / "outputs" / "artifacts")

    first, second = (folder / "iterations" / number / "policy" for number in ("1", "2"))
    weights = [load_file(policy / WEIGHTS) for policy in (first, second)]
    assert weights[0].keys() == weights[1].keys()
    assert any((weights[0][name] != weights[1][name]).any() for name in weights[0])

    _policy_2_generates_text(cfg.model, second)
    _scores_are_real(folder)


def _policy_2_generates_text(model: ModelConfig, policy: Path) -> None:
    models = Models(model_files.locate(model.name, None), "bfloat16", "auto")
    engine = HFEngine(models, rows=4, scoring_tokens=2048, merge_adapter=False)
    adapter = Adapter(policy.resolve().name, policy.resolve())
    request = SampleRequest(models.chat.render("Name three colours."), [1])
    (completion,) = engine.sample([request], Decoding(0.0, 1.0, 24), adapter, lambda *_: None)[0]
    text = models.chat.decode(completion.token_ids)
    assert any(colour in text.lower() for colour in ("red", "blue", "green", "yellow")), text


def _scores_are_real(folder: Path) -> None:
    place = (folder / "iterations" / "2").resolve()
    artifacts: dict[str, Artifact] = {}
    for name in ("candidates", "judgements"):
        manifest = Manifest.read(place / name)
        assert manifest is not None
        artifacts[name] = Artifact(place / name, manifest)
    judgements = artifacts["judgements"].read(Judgement)
    assert all(0 < (j.score or 0) < 5 and (j.score_mass or 0) > 0.3 for j in judgements)
    assert all(candidate.text for candidate in artifacts["candidates"].read(Candidate))
