"""Adapters: saved and loaded whole or not at all, switched on one base, folded into it and out again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from selfreward.config import LoraConfig
from selfreward.engines.base import Decoding
from selfreward.engines.hf import HFEngine
from selfreward.errors import ConfigError, ModelError
from selfreward.model.adapters import SETTINGS_FILE, WEIGHTS_FILE, Adapter
from selfreward.model.lora import save_adapter
from selfreward.model.models import Models
from tests.adapters import LORA, train
from tests.asking import ignore, requests

COMPLETIONS = [[20, 21, 22], [23, 24], [25], [26, 27, 28, 29]]


@pytest.fixture
def models(tiny_model: Path) -> Models:
    """Each test's own: an adapter's layers stay in a model once they are there."""
    return Models(tiny_model, "float32", "cpu")


@pytest.fixture
def engine(models: Models) -> HFEngine:
    return HFEngine(models, rows=64, scoring_tokens=2048, merge_adapter=False)


def logprobs(engine: HFEngine, adapter: Adapter | None) -> list[float]:
    prompts = [request.prompt_ids for request in requests(engine)]
    return [value for row in engine.logprobs(prompts, COMPLETIONS, adapter, ignore) for value in row]


def base_weights(models: Models) -> dict[str, torch.Tensor]:
    """The base's own weights by name, wherever adapters have put them."""
    weights = models.base.state_dict()
    return {name.replace(".base_layer", ""): w.clone() for name, w in weights.items() if "lora_" not in name}


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


# Switched on one base


def test_what_is_loaded_while_sampling_can_be_trained_afterwards(
    tiny_model: Path, models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyTorch never lets tensors of its inference mode into a gradient. Loaded in this thread, weights were such."""
    adapter = train(models, tmp_path / "one")
    monkeypatch.setenv("HF_DEACTIVATE_ASYNC_LOAD", "1")
    fresh = Models(tiny_model, "float32", "cpu")
    with torch.inference_mode(), fresh.policy(adapter) as model:
        assert not any(parameter.is_inference() for parameter in model.parameters())
    with fresh.policy(None):  # switches its gradients off, and on again
        pass
    with fresh.trainable(None, LORA, 0) as model:
        model(input_ids=torch.tensor([[1, 40, 41]])).logits.sum().backward()


def test_an_adapter_changes_answers_and_policy_0_is_back_once_it_is_off(
    engine: HFEngine, models: Models, tmp_path: Path
) -> None:
    before = logprobs(engine, None)
    adapter = train(models, tmp_path / "one")
    assert logprobs(engine, adapter) != pytest.approx(before, abs=1e-2)
    assert logprobs(engine, None) == before


def test_each_adapter_is_itself_in_whatever_order_they_are_used(
    engine: HFEngine, models: Models, tmp_path: Path
) -> None:
    first, second = train(models, tmp_path / "one", seed=1), train(models, tmp_path / "two", seed=2)
    found = {adapter.name: logprobs(engine, adapter) for adapter in (first, second)}
    assert found["one"] != pytest.approx(found["two"], abs=1e-2)
    assert logprobs(engine, first) == found["one"]
    assert logprobs(engine, second) == found["two"]


def test_one_adapter_is_held_at_a_time_also_where_their_settings_differ(
    engine: HFEngine, models: Models, tmp_path: Path
) -> None:
    wider = LoraConfig(r=8, alpha=8, target_modules="q_proj,down_proj")
    adapters = [
        train(models, tmp_path / name, seed, lora)
        for seed, (name, lora) in enumerate([("one", LORA), ("wide", wider), ("two", LORA)])
    ]
    alone = [
        logprobs(HFEngine(Models(models.folder, "float32", "cpu"), 64, 2048, merge_adapter=False), adapter)
        for adapter in adapters
    ]
    for adapter, expected in [*zip(adapters, alone, strict=True), (adapters[0], alone[0])]:
        assert logprobs(engine, adapter) == expected
        held = {name: tensor for name, tensor in models.base.state_dict().items() if "lora_" in name}
        on_disk = load_file(adapter.folder / WEIGHTS_FILE)
        assert sum(tensor.numel() for tensor in held.values()) == sum(tensor.numel() for tensor in on_disk.values())


def test_an_adapter_is_loaded_again_after_its_layers_were_trained(
    engine: HFEngine, models: Models, tmp_path: Path
) -> None:
    adapter = train(models, tmp_path / "one")
    before = logprobs(engine, adapter)
    with models.trainable(adapter, LORA, seed=0) as model, torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(1.0)
    assert logprobs(engine, adapter) == before


def test_training_that_fails_leaves_no_layers_in_the_base(models: Models, tmp_path: Path) -> None:
    adapter, before = train(models, tmp_path / "one"), Models(models.folder, "float32", "cpu").base.state_dict()
    with pytest.raises(RuntimeError, match="out of memory"), models.trainable(adapter, LORA, seed=0):
        raise RuntimeError("out of memory")
    assert_same(models.base.state_dict(), before)


def test_an_adapter_is_the_low_rank_product_that_its_files_hold(
    engine: HFEngine, models: Models, tmp_path: Path
) -> None:
    adapter = train(models, tmp_path / "one")
    found = logprobs(engine, adapter)
    factors = load_file(adapter.folder / WEIGHTS_FILE)
    other = Models(models.folder, "float32", "cpu")
    for name, weight in other.base.state_dict().items():
        key = "base_model.model." + name.removesuffix(".weight")
        if f"{key}.lora_A.weight" in factors:
            weight += LORA.alpha / LORA.r * factors[f"{key}.lora_B.weight"] @ factors[f"{key}.lora_A.weight"]
    plain = HFEngine(other, rows=64, scoring_tokens=2048, merge_adapter=False)
    assert logprobs(plain, None) == pytest.approx(found, abs=1e-4)


# Trained


def test_only_the_adapter_is_trainable_and_only_while_it_trains(models: Models) -> None:
    with models.trainable(None, LORA, seed=0) as model:
        trainable = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        assert trainable
        assert all("lora_" in name for name in trainable)
    assert not any(parameter.requires_grad for parameter in models.base.parameters())


def test_a_fresh_adapter_changes_nothing_yet(engine: HFEngine, models: Models, tmp_path: Path) -> None:
    before = logprobs(engine, None)
    with models.trainable(None, LORA, seed=0) as model:
        save_adapter(model, tmp_path)
    assert logprobs(engine, Adapter("fresh", tmp_path)) == pytest.approx(before, abs=1e-6)


def test_training_goes_on_from_the_adapter_it_is_given(models: Models, tmp_path: Path) -> None:
    """An earlier implementation loaded it into the wrong place without a word, so each iteration began anew."""
    previous = train(models, tmp_path / "one")
    with models.trainable(previous, LoraConfig(), seed=9) as model:
        save_adapter(model, tmp_path)
    assert (tmp_path / WEIGHTS_FILE).read_bytes() == (previous.folder / WEIGHTS_FILE).read_bytes()
    assert (tmp_path / SETTINGS_FILE).read_bytes() == (previous.folder / SETTINGS_FILE).read_bytes()


def test_equal_seeds_give_equal_bytes_and_other_seeds_others(tiny_model: Path, tmp_path: Path) -> None:
    made = []
    for name, seed in [("a", 1), ("b", 1), ("c", 2)]:
        adapter = train(Models(tiny_model, "float32", "cpu"), tmp_path / name, seed)
        made.append([(adapter.folder / file).read_bytes() for file in (WEIGHTS_FILE, SETTINGS_FILE)])
    assert made[0] == made[1]
    assert made[0] != made[2]


def test_training_leaves_the_base_as_it_was(models: Models, tmp_path: Path) -> None:
    before = base_weights(models)
    train(models, tmp_path / "one")
    assert_same(base_weights(models), before)


# Folded into the weights


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_folding_an_adapter_in_and_out_leaves_the_base_bit_for_bit_as_it_was(
    tiny_model: Path, tmp_path: Path, dtype: str
) -> None:
    models = Models(tiny_model, dtype, "cpu")
    adapter = train(models, tmp_path / "one")
    before = base_weights(models)
    with models.policy(adapter, merged=True):
        within = base_weights(models)
    assert any(not torch.equal(within[name], before[name]) for name in before)
    assert_same(base_weights(models), before)


def test_the_base_is_put_back_also_where_sampling_fails(models: Models, tmp_path: Path) -> None:
    adapter = train(models, tmp_path / "one")
    before = base_weights(models)
    with pytest.raises(RuntimeError, match="out of memory"), models.policy(adapter, merged=True):
        raise RuntimeError("out of memory")
    assert_same(base_weights(models), before)


def test_a_merged_adapter_samples_nearly_as_it_does_beside_the_weights(
    engine: HFEngine, models: Models, tmp_path: Path
) -> None:
    adapter = train(models, tmp_path / "one")
    merging = HFEngine(models, rows=64, scoring_tokens=2048, merge_adapter=True)
    asked, decoding = requests(engine), Decoding(0.3, 0.9, 6)  # of few tokens: rounding seldom swaps any
    beside = [c for row in engine.sample(asked, decoding, adapter, ignore) for c in row]
    merged = [c for row in merging.sample(asked, decoding, adapter, ignore) for c in row]
    for one, other in zip(beside, merged, strict=True):
        assert one.token_ids == other.token_ids
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)


def test_log_probabilities_are_those_of_the_model_that_samples(
    models: Models, tiny_model: Path, tmp_path: Path
) -> None:
    """In bfloat16 weights lose most of a small adapter: parity must see what answers are drawn from."""
    rounded = Models(tiny_model, "bfloat16", "cpu")
    adapter = train(rounded, tmp_path / "one")
    beside, merging = (HFEngine(rounded, rows=64, scoring_tokens=2048, merge_adapter=merge) for merge in (False, True))
    assert logprobs(beside, adapter) != logprobs(merging, adapter)
    assert logprobs(beside, None) == logprobs(merging, None)


def test_after_sampling_with_a_merged_adapter_scores_are_what_they_were(
    engine: HFEngine, models: Models, tmp_path: Path
) -> None:
    adapter = train(models, tmp_path / "one")
    before = logprobs(engine, adapter), logprobs(engine, None)
    merging = HFEngine(models, rows=64, scoring_tokens=2048, merge_adapter=True)
    merging.sample(requests(engine), Decoding(0.9, 0.95, 2), adapter, ignore)
    assert (logprobs(engine, adapter), logprobs(engine, None)) == before


@pytest.mark.parametrize("merge", [True, False])
def test_the_base_is_another_while_it_samples_if_and_only_if_the_adapter_is_merged(
    models: Models, tmp_path: Path, merge: bool
) -> None:
    adapter = train(models, tmp_path / "one")
    before, changed = base_weights(models), set[bool]()

    def look(units: float, tokens: int) -> None:
        during = base_weights(models)
        changed.add(any(not torch.equal(during[name], before[name]) for name in before))

    engine = HFEngine(models, rows=64, scoring_tokens=2048, merge_adapter=merge)
    engine.sample(requests(engine), Decoding(0.9, 0.95, 2), adapter, look)
    assert changed == {merge}


# Refused

Tensors = dict[str, torch.Tensor]


def _without_one(tensors: Tensors) -> Tensors:
    return {name: tensors[name] for name in list(tensors)[1:]}


def _with_one_more(tensors: Tensors) -> Tensors:
    return tensors | {"base_model.model.model.layers.7.self_attn.q_proj.lora_A.weight": torch.zeros(4, 32)}


def _of_another_width(tensors: Tensors) -> Tensors:
    return {name: torch.cat([tensor, tensor], dim=int("lora_A" in name)) for name, tensor in tensors.items()}


@pytest.mark.parametrize("spoil", [_without_one, _with_one_more, _of_another_width])
def test_an_adapter_that_does_not_fit_the_model_is_refused_each_time_it_is_asked_for(
    engine: HFEngine, models: Models, tmp_path: Path, spoil: Callable[[Tensors], Tensors]
) -> None:
    adapter = train(models, tmp_path / "one")
    save_file(spoil(load_file(adapter.folder / WEIGHTS_FILE)), adapter.folder / WEIGHTS_FILE)
    for _ in range(2):
        with pytest.raises(ModelError, match=f"{adapter.folder} does not fit the model"):
            logprobs(engine, adapter)


@pytest.mark.parametrize("spoil", [_without_one, _with_one_more, _of_another_width])
def test_training_does_not_go_on_from_an_adapter_that_does_not_fit(
    models: Models, tmp_path: Path, spoil: Callable[[Tensors], Tensors]
) -> None:
    adapter = train(models, tmp_path / "one")
    save_file(spoil(load_file(adapter.folder / WEIGHTS_FILE)), adapter.folder / WEIGHTS_FILE)
    with pytest.raises(ModelError, match="does not fit the model"), models.trainable(adapter, LORA, seed=0):
        pass


def test_an_adapter_of_another_kind_is_refused(models: Models, tmp_path: Path) -> None:
    peft.IA3Config(target_modules=["q_proj"], feedforward_modules=[]).save_pretrained(str(tmp_path))
    with pytest.raises(ModelError, match=r"holds a .*IA3 adapter: only LoRA is supported"):
        models.policy(Adapter("one", tmp_path)).__enter__()


def test_a_quantised_base_is_refused_where_nothing_computes_it(tiny_model: Path) -> None:
    models = Models(tiny_model, "bfloat16", "cpu", quantization="nf4")
    with pytest.raises(ConfigError, match=r"^train\.quantization=nf4: .* this run is on cpu; use none$"):
        _ = models.base
