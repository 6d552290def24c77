"""DPO through trl: the right log-probabilities, the right reference, and checkpoints that can be trusted."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import MixtralConfig, MixtralForCausalLM

from selfreward.config import LoraConfig, RunConfig, artifacts_dir
from selfreward.errors import TrainingError
from selfreward.model.adapters import WEIGHTS_FILE
from selfreward.model.lora import TRAINED
from selfreward.model.models import Models
from selfreward.records import PreferencePair
from selfreward.store import Cost, digests
from selfreward.training.checkpoint import newest_whole, seal
from selfreward.training.dpo import check_start, make_trainer
from selfreward.training.forward import fast_forward
from tests.loop.helpers import Recorder, make_store, run_loop
from tests.training import (
    PAIRS,
    move,
    our_trainer,
    references,
    settings,
    train,
    train_config,
    train_in_stage,
    trainable,
)


class KilledError(Exception):
    """Stands for a kill in tests that stay in one process; tests/loop/test_kill.py sends the real signal."""


def test_dpo_loss_equals_an_independent_computation_in_float64(tiny_config: RunConfig, tmp_path: Path) -> None:
    made = run_loop(tiny_config)
    pairs = made[1]["pairs"].read(PreferencePair)[:2]
    tools = make_store(tiny_config).tools
    how = settings(tiny_config.train)
    with tools.models.trainable(tools.adapter(made[1]["policy"]), tiny_config.train.lora, 0) as model:
        trainer = our_trainer(model, tools.models.chat.tokenizer, pairs, how, tmp_path)
        reference = _adapter(model)
        move(model, seed=1, size=0.05)
        policy = _adapter(model)
        (batch,) = trainer.get_train_dataloader()
        with fast_forward(model.get_base_model(), how.speed):
            ours = trainer.training_step(model, batch).item()

        model.double().eval()

        def logprob(prompt: list[int], completion: list[int], adapter: dict[str, torch.Tensor]) -> float:
            model.load_state_dict(adapter, strict=False)
            ids = torch.tensor([prompt + completion])
            with torch.no_grad():
                logits = model(input_ids=ids).logits[0]
            # Position p predicts token p + 1: the completion's first token comes from the prompt's last position.
            rows = logits[len(prompt) - 1 : -1].log_softmax(-1)
            return rows.gather(-1, torch.tensor(completion)[:, None]).sum().item()

        margins: list[float] = []
        for pair in pairs:
            ratios = [
                logprob(pair.prompt_ids, ids, policy) - logprob(pair.prompt_ids, ids, reference)
                for ids in (pair.chosen_ids, pair.rejected_ids)
            ]
            margins.append(ratios[0] - ratios[1])
        expected = -torch.nn.functional.logsigmoid(tiny_config.train.beta * torch.tensor(margins, dtype=torch.float64))
    assert abs(margins[0]) > 1e-3
    assert ours == pytest.approx(expected.mean().item(), rel=1e-5)


@pytest.mark.parametrize("loss", ["sigmoid", pytest.param("ipo", marks=pytest.mark.slow)])
def test_the_micro_batch_does_not_change_the_result(tiny_model: Path, tmp_path: Path, loss: str) -> None:
    """Three pairs in a batch of four: a mean of the micro-batches' means would give the third the weight of two."""
    results: list[tuple[float, float]] = []
    for micro_batch in (1, 2, 4):
        how = settings(train_config(loss), micro_batch=micro_batch)
        first = train(tiny_model, PAIRS[:3], how, tmp_path).steps[0]
        results.append((first["loss"], first["grad_norm"]))
    assert results[1] == pytest.approx(results[0], rel=1e-5)
    assert results[2] == pytest.approx(results[0], rel=1e-5)


def test_training_goes_on_from_the_previous_policy_byte_for_byte_and_holds_no_other(
    tiny_config: RunConfig, tmp_path: Path
) -> None:
    """trl would keep a copy of the adapter as the reference; ours is in the log-probabilities that it is given."""
    made = run_loop(tiny_config)[1]
    tools = make_store(tiny_config).tools
    previous = load_file(made["policy"].path / WEIGHTS_FILE)
    pairs = made["pairs"].read(PreferencePair)
    with tools.models.trainable(tools.adapter(made["policy"]), tiny_config.train.lora, 0) as model:
        our_trainer(model, tools.models.chat.tokenizer, pairs, settings(tiny_config.train), tmp_path)
        state = model.state_dict()
        for name, tensor in previous.items():
            assert torch.equal(state[name.replace(".weight", f".{TRAINED}.weight")], tensor), name
        assert list(model.peft_config) == [TRAINED]
        assert not any(".ref." in name for name in state)
        trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        assert trainable and all(f".{TRAINED}." in name for name in trainable)


def _adapter(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters() if f".{TRAINED}." in name}


def test_training_leaves_the_base_model_bit_identical(tiny_config: RunConfig) -> None:
    store = make_store(tiny_config)
    before = {name: tensor.clone() for name, tensor in store.tools.models.base.state_dict().items()}
    made = run_loop(tiny_config)[1]
    models = store.tools.models
    with models.trainable(store.tools.adapter(made["policy"]), tiny_config.train.lora, 0) as model, torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(1.0)
    after = {name.replace(".base_layer", ""): tensor for name, tensor in models.base.state_dict().items()}
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert all("lora_" in name for name in after.keys() - before.keys())


def test_a_start_away_from_ln_2_stops_training() -> None:
    check_start(0.6931, beta=0.1, tolerance=0.01)
    with pytest.raises(TrainingError, match="not ln 2"):
        check_start(0.75, beta=0.1, tolerance=1.0)
    check_start(0.75, beta=1.0, tolerance=1.0)  # as far apart, the loss is ten times as far off


def test_dropout_moves_the_first_loss_and_is_no_mistake(tiny_model: Path, tmp_path: Path) -> None:
    """From an adapter that already does something, as from iteration 2 on."""
    train_settings = train_config(lora=LoraConfig(r=4, alpha=8, dropout=0.5))
    trained = train_in_stage(tiny_model, PAIRS, tmp_path, settings(train_settings))
    assert trained.metrics["loss"][0] != pytest.approx(math.log(2), abs=1e-4)


def test_nothing_learned_is_an_error(tiny_config: RunConfig) -> None:
    tiny_config.train.learning_rate = 1e-60  # nothing, in float32
    with pytest.raises(TrainingError, match="left the adapter as it was"):
        run_loop(tiny_config)


def test_experts_are_trained_by_the_loss_that_was_asked_for_alone(tiny_model: Path, tmp_path: Path) -> None:
    """Without the term that balances experts, which trl adds and which couples the pairs of a batch."""
    folder = shutil.copytree(tiny_model, tmp_path / "experts")
    shape = json.loads((folder / "config.json").read_text())
    kept = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    experts = MixtralConfig(**{name: shape[name] for name in kept}, num_key_value_heads=2, num_local_experts=4)
    MixtralForCausalLM(experts).save_pretrained(folder)
    made = train_in_stage(folder, PAIRS, tmp_path / "scratch", settings(train_config()))
    assert made.metrics["loss"][0] == pytest.approx(math.log(2), abs=1e-4)


def test_gradient_checkpointing_is_not_for_what_is_trained_next(tiny_model: Path, tmp_path: Path) -> None:
    models = Models(tiny_model, "float32", "cpu")
    how = settings(train_config(), gradient_checkpointing=True)
    with models.trainable(None, how.train.lora, 0) as model:
        our_trainer(model, models.chat.tokenizer, PAIRS, how, tmp_path).train()
        assert models.base.is_gradient_checkpointing
    assert not models.base.is_gradient_checkpointing
    assert not models.base.get_input_embeddings()._forward_hooks


def test_the_adapter_of_a_quantised_base_stays_in_float32(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """trl rounds it. Nothing is quantised here: that takes a GPU."""
    how = settings(train_config())
    with trainable(tiny_model, how.speed, how.train.lora) as (model, tokenizer):
        before = [p.detach().clone() for p in model.parameters() if p.requires_grad]
        given = references(model, tokenizer, PAIRS, how.speed)
        monkeypatch.setattr(type(model.get_base_model()), "is_loaded_in_4bit", True, raising=False)
        make_trainer(model, tokenizer, PAIRS, given, how, 0, tmp_path)
        after = [p for p in model.parameters() if p.requires_grad]
    assert all(new.dtype == torch.float32 and torch.equal(old, new) for old, new in zip(before, after, strict=True))


SLOW = [pytest.param(damage, marks=pytest.mark.slow) for damage in ("a flipped bit", "a missing file", "no manifest")]


@pytest.mark.parametrize("damage", ["nothing", *SLOW])
def test_training_resumes_to_the_same_bytes(tiny_config: RunConfig, tmp_path: Path, damage: str) -> None:
    """After a kill between steps, from the checkpoint; from the stage's start where that can't be trusted."""
    tiny_config.train.epochs = 2
    tiny_config.train.lora.dropout = 0.1  # so that the random state must be restored too
    whole = tmp_path / "whole" / "run"
    killed_at = tmp_path / "killed" / "run"
    tiny_config.output_dir = str(whole)
    run_loop(tiny_config)
    steps = 0

    def kill(event: str, stage: str) -> None:
        nonlocal steps
        steps += (event, stage) == ("advanced", "policies")
        if steps == 5:  # the first is the start at step 0
            raise KilledError

    tiny_config.output_dir = str(killed_at)
    with pytest.raises(KilledError):
        run_loop(tiny_config, Recorder(kill))
    (checkpoint,) = artifacts_dir(tiny_config).glob("policies/*/partial/checkpoint-*")
    _damage(checkpoint, damage)
    resumed_from: list[str] = []
    run_loop(tiny_config, Recorder(lambda event, stage: resumed_from.append(f"{event} {stage}")))
    steps_done = resumed_from.count("advanced policies") - 1
    assert steps_done == (3 if damage == "nothing" else 6)
    assert digests(artifacts_dir(tiny_config)) == digests(whole.parent / "artifacts")


def test_a_disk_that_is_full_is_said_in_one_line(tiny_config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise RuntimeError("PytorchStreamWriter failed writing file")  # as torch says it

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(
        TrainingError, match=r"^no checkpoint could be written to .*partial \(Py.*\): make room there; "
    ):
        run_loop(tiny_config)


def test_only_a_sealed_checkpoint_counts(tmp_path: Path) -> None:
    for step in (1, 2, 10):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "weights").write_bytes(bytes([step]))
        if step != 10:
            seal(folder, Cost(seconds=step))
    found = newest_whole(tmp_path)
    assert found == (tmp_path / "checkpoint-2", Cost(seconds=2))
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-2"]


def _damage(checkpoint: Path, damage: str) -> None:
    weights = next(checkpoint.rglob("adapter_model.safetensors"))
    if damage == "a flipped bit":
        data = bytearray(weights.read_bytes())
        data[-1] ^= 1
        weights.write_bytes(data)
    elif damage == "a missing file":
        (checkpoint / "optimizer.pt").unlink()
    elif damage == "no manifest":
        (checkpoint / "checkpoint.json").unlink()
