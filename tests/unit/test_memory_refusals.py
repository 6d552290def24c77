"""What can't fit is refused before anything loads, with what would fit: it was tried."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from transformers import AutoConfig

from selfreward.cap import GIB
from selfreward.errors import ConfigError, ModelError
from selfreward.kinds import KINDS
from selfreward.memory.plan import Plan
from selfreward.stages.tools import Tools
from selfreward.validation import validate
from tests.settings import override
from tests.unit.making import tools
from tests.unit.planning import LLAMA_8B, LLAMA_70B, default, short, slow, tiny


@pytest.mark.parametrize("kind", ["t5", "mamba"])
def test_a_model_that_is_no_decoder_with_attention_is_refused(kind: str) -> None:
    with pytest.raises(ModelError, match=f"a model of type {kind} can't be used"):
        Plan(AutoConfig.for_model(kind), default(), "cpu")


def test_nf4_is_refused_without_cuda() -> None:
    with pytest.raises(ConfigError, match=r"train\.quantization=nf4: .* set engine\.device=cuda, or use none"):
        Plan(tiny(), default(train__quantization="nf4"), "cpu")


LAYERS = "down_proj, embed_tokens, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj"


@pytest.mark.parametrize(
    ("named", "lacking"),
    [
        pytest.param("q_proj,v_porj", "'v_porj'", id="one of two misspelt"),
        pytest.param("qproj, vproj", "'qproj' or 'vproj'", id="all misspelt"),
        pytest.param("all-linear,q_proj", "'all-linear'", id="all and one more"),
        pytest.param("q_proj,proj", "'proj'", id="the end of a name"),
        pytest.param("mlp", "'mlp'", id="a block of layers"),
        pytest.param("q_proj,lm_head", "'lm_head'", id="the output layer"),
        pytest.param(",", "''", id="no name"),
    ],
)
def test_each_name_must_be_of_a_layer_that_an_adapter_can_be_on(named: str, lacking: str) -> None:
    """Where another one is, peft ignores it."""
    with pytest.raises(ConfigError) as caught:
        Plan(tiny(), default(train__lora__target_modules=named), "cpu")
    said = f"the model has no layer {lacking} for an adapter; use all-linear alone, or some of {LAYERS}"
    assert str(caught.value) == f"train.lora.target_modules={named}: {said}"


@pytest.mark.parametrize("named", ["all-linear", "q_proj, v_proj", "q_proj,", "self_attn.o_proj"])
def test_a_layer_goes_by_its_name_or_by_more_of_its_path(named: str) -> None:
    Plan(tiny(), default(train__lora__target_modules=named), "cpu")


def test_a_layer_of_one_block_alone_is_refused() -> None:
    """The plan is that of blocks which are alike."""
    with pytest.raises(ConfigError) as caught:
        Plan(tiny(), default(train__lora__target_modules="q_proj,layers.1.mlp.up_proj"), "cpu")
    said = "'layers.1.mlp.up_proj' is a layer of one block, and all blocks get the same; use up_proj"
    assert str(caught.value) == f"train.lora.target_modules=q_proj,layers.1.mlp.up_proj: {said}"


@pytest.mark.parametrize(("key", "value"), [("sampling_rows", 4096), ("scoring_tokens", 4096)])
def test_what_was_set_too_large_is_named_with_what_would_fit(key: str, value: int) -> None:
    cfg = default(**{"model__dtype": "float32", "memory__ram_gb": 0.95, f"memory__{key}": value})
    with pytest.raises(ConfigError, match=rf"needs .* GiB; use memory\.{key}=\d+ or memory\.ram_gb=\S+$") as caught:
        Plan(tiny(), cfg, "cpu").check()
    nearest = int(caught.value.remedy.partition(f"{key}=")[2].split()[0])
    override(cfg, f"memory.{key}", 2 * nearest)
    with pytest.raises(ConfigError):
        Plan(tiny(), cfg, "cpu").check()


def test_on_a_small_gpu_no_larger_cap_is_named() -> None:
    with pytest.raises(ConfigError) as caught:
        Plan(LLAMA_8B, default(memory__micro_batch=4), "cuda", available_gb=18).check()
    said = r"memory\.cap_gb=64: training needs \S+ GiB, and 18 of this GPU are free; use memory\.micro_batch=1 [^;]*"
    assert re.fullmatch(said, str(caught.value))
    assert "cap_gb" not in caught.value.remedy


def test_where_nothing_helps_on_a_small_gpu_another_model_is_named() -> None:
    with pytest.raises(ConfigError, match=r"and 1 of this GPU are free; use a smaller model, or a larger GPU$"):
        Plan(LLAMA_8B, default(train__quantization="nf4"), "cuda", available_gb=1).check()


@slow
def test_settings_are_named_together_where_one_is_not_enough() -> None:
    with pytest.raises(ConfigError, match=r"use .*train\.quantization=nf4 or memory\.cap_gb=") as caught:
        Plan(LLAMA_70B, default(train__max_length=2048), "cuda", limit_gb=44).check()
    assert len(caught.value.remedy.partition("; use ")[2].partition(" or ")[0].split()) > 1


def test_what_does_not_fit_is_refused_before_any_weights_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny().save_pretrained(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
    monkeypatch.setattr("selfreward.model.models.Models", lambda *_, **__: pytest.fail("the model was loaded"))
    cfg = short(memory__ram_gb=0.5, engine__device="cpu", train__batch_size=1)
    shown: list[Any] = []
    with pytest.raises(ConfigError) as caught:
        _ = Tools(tools().pool, tmp_path, tmp_path, cfg, shown.append).models
    assert (caught.value.key, caught.value.exit_code) == ("memory.ram_gb", 2)
    message = r"memory\.ram_gb=0\.5: training needs 0\.9 GiB; use .*memory\.ram_gb=0\.\d"
    assert re.fullmatch(message, str(caught.value))  # a dot matches no end of a line
    assert not shown


def test_what_is_needed_is_said_to_be_more_than_there_is() -> None:
    plan = Plan(tiny(), short(), "cpu")
    least = plan.costs.training(plan.costs.longest_batch[:1], checkpointing=True, later=True)
    plan.limit_gb = (sum(least.values()) - 1) / GIB
    with pytest.raises(ConfigError, match=r"training needs") as caught:
        plan.fit_training(plan.costs.longest_batch)
    assert float(caught.value.remedy.split()[2]) > plan.limit_gb


def slowly(*case: Any) -> Any:
    return pytest.param(*case, marks=slow)


@pytest.mark.parametrize(
    ("config", "limit", "overrides"),
    [
        (tiny(), 0.9, {}),
        (LLAMA_8B, 18, {"memory__micro_batch": 4, "memory__gradient_checkpointing": False}),
        (tiny(), 0.95, {"documents__path": __file__, "tuning__max_length": 2048, "tuning__batch_size": 1}),
        slowly(LLAMA_8B, 48, {"memory__micro_batch": 3, "memory__gradient_checkpointing": False}),
        slowly(LLAMA_8B, 16, {}),
        slowly(LLAMA_70B, 80, {}),
        slowly(LLAMA_8B, 17, {"train__max_length": 8192, "train__batch_size": 1}),
        slowly(LLAMA_70B, 42, {"train__quantization": "nf4"}),
        slowly(tiny(), 0.5, {}),
        slowly(tiny(), 0.85, {"memory__sampling_rows": 64, "memory__scoring_tokens": 4096}),
        slowly(LLAMA_8B, 24, {"memory__sampling_rows": 256, "memory__scoring_tokens": 32768}),
        slowly(tiny(), 0.9, {"train__loss": "aot"}),
        slowly(LLAMA_8B, 18, {"train__loss": "aot"}),
        slowly(LLAMA_8B, 8, {"memory__micro_batch": 4, "memory__gradient_checkpointing": False}),
        slowly(LLAMA_70B, 24, {}),
        slowly(tiny(), 0.81, {}),
    ],
)
def test_every_remedy_helps(config: Any, limit: float, overrides: dict[str, Any]) -> None:
    device, key = ("cuda", "memory__cap_gb") if limit > 2 else ("cpu", "memory__ram_gb")
    cfg = default(**{"train__max_length": 2048 if limit > 2 else 1024, key: limit} | overrides)
    with pytest.raises(ConfigError) as caught:
        Plan(config, cfg, device).check()
    assert len(str(caught.value).splitlines()) == 1
    choices = caught.value.remedy.partition("; use ")[2].split(" or ")
    assert f"{key.replace('__', '.')}=" in choices[-1]
    for choice in choices:
        mended: Any = OmegaConf.to_object(OmegaConf.merge(cfg, OmegaConf.from_dotlist(choice.split())))
        assert mended != cfg
        validate(mended, KINDS)
        Plan(config, mended, device).check()
