"""Models of other families than the tested one: what they compute in a way of their own is found, and left to them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from selfreward.config import LoraConfig
from selfreward.engines.local.padded_forward import PaddedForward
from selfreward.errors import ModelError
from selfreward.memory.plan import Plan
from selfreward.memory.trace import Skeleton
from selfreward.model.attention import check_exchange, is_exchangeable
from selfreward.model.device import pick_attention
from selfreward.model.models import Models
from selfreward.pretrained import load
from tests.forwards import ROWS, nothing
from tests.unit.planning import default
from tests.unit.real_steps import LATENT, SMALL


def configured(kind: str, **others: Any) -> Any:
    """The settings of a small one."""
    return getattr(transformers, f"{kind}Config")(**SMALL | others)


def made(kind: str, dtype: torch.dtype = torch.float32, **others: Any) -> Any:
    """A small model with random weights, its attention's own parameters too."""
    torch.manual_seed(0)
    config = configured(kind, **{"num_hidden_layers": 4} | others)
    model: Any = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="eager").eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 or name.endswith(".A"):
                parameter.normal_(0, 0.2)
    return model


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("kind", "others", "exchangeable"),
    [
        ("Llama", {}, True),
        ("Qwen3", {"head_dim": 16}, True),
        ("Mixtral", {"num_local_experts": 4}, True),
        ("Granite", {}, True),
        pytest.param("Doge", {}, False, id="Doge, which adds a number to each key"),
        pytest.param("DiffLlama", {}, False, id="DiffLlama, which attends twice"),
    ],
)
def test_attention_is_exchanged_where_that_changes_nothing(
    kind: str, others: dict[str, Any], exchangeable: bool, dtype: torch.dtype
) -> None:
    model = made(kind, dtype, **others)
    assert is_exchangeable(model)  # as far as its settings tell
    check_exchange(model)
    assert is_exchangeable(model) == exchangeable


def test_a_token_without_an_embedding_does_not_hide_that_attention_is_common(tiny_model: Path) -> None:
    model: Any = Models(tiny_model, "float32", "cpu").base
    assert not model.get_input_embeddings().weight[0].any()  # that of padding, which the trial has too
    assert is_exchangeable(model)


@pytest.mark.parametrize(
    ("kind", "others"),
    [
        ("Lfm2", {"layer_types": ["conv", "full_attention"] * 2}),
        ("Mistral", {"sliding_window": 4}),
        ("Qwen3Next", {"layer_types": ["linear_attention", "full_attention"] * 2, "num_experts": 0}),
    ],
)
def test_answers_of_models_with_other_layers_grow_as_if_computed_whole(kind: str, others: dict[str, Any]) -> None:
    model = made(kind, **others)
    forward = PaddedForward(model, 0, 400, nothing)
    tokens = torch.randint(3, 90, (2, 6))
    kept = torch.tensor([0, 3, 5])
    with torch.inference_mode():
        _, answers = forward.prompts(ROWS).open([0, 1, 3], answers=2, steps=4)
        answers.step(tokens[0])
        answers.keep(kept)
        grown_BH = answers.step(tokens[1][kept])
        rows = [[*ROWS[(0, 1, 3)[row // 2]], *tokens[:, row].tolist()] for row in kept.tolist()]
        whole = [model.get_decoder()(torch.tensor([row])).last_hidden_state[0, -1] for row in rows]
    torch.testing.assert_close(grown_BH, torch.stack(whole), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(
    ("kind", "device", "attention"),
    [("Llama", "cuda", "sdpa"), ("Llama", "cpu", "eager"), ("Gemma2", "cuda", "eager"), ("GptOss", "cuda", "eager")],
)
def test_a_model_that_has_no_fused_attention_takes_none(kind: str, device: str, attention: str) -> None:
    assert pick_attention(torch.device(device), configured(kind)) == attention


def test_its_memory_on_a_gpu_is_planned_so_too() -> None:
    config = configured("Gemma2", head_dim=16)
    skeleton = Skeleton(config, "bfloat16", LoraConfig(), eager=False)
    assert skeleton.is_traceable
    assert skeleton.training_bytes([(20, 10, 10)], checkpointing=False) > 0


def test_keys_and_values_are_counted_by_their_own_sizes() -> None:
    """As of DeepSeek, whose `head_dim` is that of positions alone."""
    config = configured("DeepseekV3", **LATENT | {"qk_nope_head_dim": 24, "v_head_dim": 16})
    costs = Plan(config, default(model__dtype="bfloat16"), "cpu").costs
    assert costs.cache_bytes(10) == 10 * 4 * (8 + 24 + 16) * 7 * 2


def test_a_model_that_can_not_be_cut_to_a_few_layers_is_not_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of Gemma 4, whose settings say how many of all layers share keys."""
    skeleton = Skeleton(configured("Llama"), "float32", LoraConfig(), eager=True)

    def refuse(layers: int) -> Any:
        raise ValueError(f"{layers} layers are fewer than those that share keys")

    monkeypatch.setattr(skeleton, "_base", refuse)
    assert not skeleton.is_traceable


def test_the_base_model_drops_nothing_while_an_adapter_learns(tiny_model: Path, tmp_path: Path) -> None:
    for file in tiny_model.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = transformers.LlamaConfig.from_pretrained(tmp_path)
    config.attention_dropout = 0.5
    config.save_pretrained(tmp_path)
    models = Models(tmp_path, "float32", "cpu")
    ids = torch.arange(3, 20)[None]
    with models.trainable(None, LoraConfig(), 0) as model, torch.no_grad():
        model.train()
        one, other = (model(input_ids=ids).logits for _ in range(2))
    torch.testing.assert_close(one, other, atol=0, rtol=0)


def test_a_package_that_a_model_needs_is_named() -> None:
    class Needy:
        @staticmethod
        def from_pretrained(*_: Any, **__: Any) -> Any:
            raise ImportError("An AWQ model requires gptqmodel. Please\ninstall it with `pip install gptqmodel`")

    with pytest.raises(ModelError) as caught:
        load(Needy, "there")
    said = "An AWQ model requires gptqmodel. Please install it with `pip install gptqmodel`"
    assert str(caught.value) == f"there can't be loaded: {said}"
