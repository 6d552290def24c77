"""Fixtures: the tiny model, and settings small enough for it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import absl.logging
import pytest

from selfreward.config import PromptsConfig, RunConfig

# rouge-score brings a log handler that keeps the stderr of its import, one of pytest's, and closes it when Hydra sets
# up logging. The process's own it leaves open.
absl.logging.get_absl_handler().python_handler.setStream(sys.__stderr__)

os.environ.setdefault("OMP_NUM_THREADS", "1")  # on matrices this small, threads only wait for each other
os.environ["WANDB_MODE"] = "offline"  # no test may reach a service
os.environ.pop("WANDB_API_KEY", None)


def vllm_python() -> str:
    """The interpreter of an environment that has vLLM; the test is skipped where there is none."""
    python = os.environ.get("SELFREWARD_VLLM_PYTHON") or str(Path(__file__).parents[1] / ".venv-vllm/bin/python")
    if not os.access(python, os.X_OK):
        pytest.skip(f"{python} is not there: `make test-vllm` makes it, SELFREWARD_VLLM_PYTHON names another")
    return python


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny chat model."""
    from tests.tiny import save_tiny_model  # imports torch, which many tests do without

    return save_tiny_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture
def tiny_config(tiny_model: Path, tmp_path: Path) -> RunConfig:
    """Settings under which the whole loop takes a few seconds."""
    return tiny_settings(tiny_model, tmp_path / "outputs" / "run")


def tiny_settings(model: Path, output_dir: Path) -> RunConfig:
    """Settings for the tiny model: float32, few prompts, short answers, a learning rate that shows."""
    cfg = RunConfig(iteration=1, name="tiny", output_dir=str(output_dir))
    cfg.model.name = str(model)
    cfg.model.dtype = "float32"
    cfg.prompts = PromptsConfig(
        kind="seed_pool", category_column="category", held_out_column="split", per_iteration=6, held_out=4
    )
    cfg.sampling.n = 3
    cfg.sampling.max_new_tokens = 12
    cfg.sampling.shard_size = 2
    cfg.judge.shard_size = 2
    cfg.judge.max_new_tokens = 8
    cfg.evaluation.max_new_tokens = 12
    cfg.train.learning_rate = 1e-3
    cfg.train.batch_size = 2
    cfg.train.reference_logprobs = "computed"
    cfg.memory.micro_batch = 1
    cfg.memory.checkpoint_seconds = 0
    cfg.tracking.wandb = "disabled"
    return cfg
