"""What a training step keeps is known from shapes alone: the traced bytes are those of a real step, weights apart."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers.models.gemma2 import Gemma2Config
from transformers.models.gemma3 import Gemma3TextConfig
from transformers.models.granite import GraniteConfig
from transformers.models.llama import LlamaConfig
from transformers.models.mistral import MistralConfig
from transformers.models.qwen2 import Qwen2Config
from transformers.models.qwen3 import Qwen3Config

from selfreward.cap import resident_bytes
from selfreward.config import LoraConfig, MemoryConfig, RunConfig, SpeedConfig, TrainConfig
from selfreward.memory.plan import Plan
from selfreward.memory.shapes import model_config
from selfreward.memory.trace import Skeleton
from selfreward.model.head import CHUNK_BYTES
from selfreward.model.models import Models
from selfreward.records import PreferencePair, ReferenceLogprobs
from selfreward.training.dpo import DPOSettings, make_trainer
from selfreward.training.forward import fast_forward
from tests.unit.real_steps import ONE, SMALL, THREE, Living, Pairs, allocated, kept, llama, real_step

WITHIN = 0.03

slow = pytest.mark.slow
both_ways = pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "recomputed"])


def traced(
    config: Any,
    pairs: Pairs,
    *,
    dtype: str = "float32",
    checkpointing: bool = False,
    later: bool = False,
    **lora: Any,
) -> int:
    skeleton = Skeleton(config, dtype, LoraConfig(**lora), eager=True)
    return skeleton.training_bytes(pairs, checkpointing=checkpointing, later=later)


def test_the_head_is_traced_with_the_device_s_own_chunk_of_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    config = llama(1, vocab_size=30_000)

    def bytes_with(rows: int, *, eager: bool) -> int:
        monkeypatch.setitem(CHUNK_BYTES, "cuda", rows * 4 * config.vocab_size)
        skeleton = Skeleton(config, "bfloat16", LoraConfig(), eager=eager)
        return skeleton.training_bytes([(8, 60, 60)], checkpointing=False)

    more_logits = 50 * 4 * config.vocab_size
    assert bytes_with(100, eager=False) - bytes_with(50, eager=False) > more_logits
    assert bytes_with(100, eager=True) == bytes_with(50, eager=True)  # a CPU's


# A real step, and what it keeps


@both_ways
def test_counting_living_tensors_finds_what_the_allocator_gave(checkpointing: bool) -> None:
    found = kept(llama(), ONE, checkpointing=checkpointing)
    assert found == pytest.approx(allocated(llama(), ONE, checkpointing=checkpointing), rel=WITHIN)


# The trace against a real step


@both_ways
@pytest.mark.parametrize("pairs", [ONE, THREE], ids=["one pair", "three pairs"])
@pytest.mark.parametrize("layers", [*(pytest.param(n, marks=slow) for n in (1, 2, 6)), 7])
def test_what_is_traced_is_what_a_real_step_keeps(layers: int, pairs: Pairs, checkpointing: bool) -> None:
    """Two and four layers are traced: one, six and seven lie on their straight line."""
    real = kept(llama(layers), pairs, checkpointing=checkpointing)
    assert traced(llama(layers), pairs, checkpointing=checkpointing) == pytest.approx(real, rel=WITHIN)


@both_ways
@pytest.mark.parametrize("dtype", ["bfloat16", pytest.param("float16", marks=slow)])
def test_it_holds_in_half_precision(dtype: str, checkpointing: bool) -> None:
    real = kept(llama(), THREE, dtype=dtype, checkpointing=checkpointing)
    assert traced(llama(), THREE, dtype=dtype, checkpointing=checkpointing) == pytest.approx(real, rel=WITHIN)


@slow
@both_ways
@pytest.mark.parametrize(
    "config",
    [
        llama(tie_word_embeddings=False),
        llama(vocab_size=32000),
        llama(num_key_value_heads=4, head_dim=32),
        Qwen2Config(**SMALL),  # names its layers' kinds in `layer_types`
        Qwen3Config(**SMALL, head_dim=16),
        MistralConfig(**SMALL, sliding_window=None),
        GraniteConfig(**SMALL),
    ],
    ids=["untied", "wide vocabulary", "wide heads", "qwen2", "qwen3", "mistral", "granite"],
)
def test_it_holds_for_other_models(config: Any, checkpointing: bool) -> None:
    real = kept(config, ONE, checkpointing=checkpointing)
    assert traced(config, ONE, checkpointing=checkpointing) == pytest.approx(real, rel=WITHIN)


@slow
@both_ways
@pytest.mark.parametrize("lora", [{"r": 64}, {"dropout": 0.1}, {"target_modules": "q_proj,v_proj"}], ids=str)
def test_it_holds_for_other_adapters(lora: dict[str, Any], checkpointing: bool) -> None:
    real = kept(llama(), ONE, checkpointing=checkpointing, lora=LoraConfig(**lora))
    assert traced(llama(), ONE, checkpointing=checkpointing, **lora) == pytest.approx(real, rel=WITHIN)


@slow
@pytest.mark.parametrize(
    "config",
    [
        Gemma2Config(**SMALL, head_dim=16),
        Gemma3TextConfig(**SMALL, head_dim=16),
        MistralConfig(**SMALL),
    ],
    ids=["soft caps", "mixed layer types", "sliding window"],
)
def test_it_holds_for_models_that_can_not_be_packed(config: Any) -> None:
    assert traced(config, ONE) >= (1 - WITHIN) * kept(config, ONE)


@slow
def test_a_fused_kernel_keeps_no_scores() -> None:
    """A CPU's own kernel also makes a mask for the rejected, which CUDA's does without: some percent."""
    long: Pairs = [(500, 100, 100)]
    fused, eager = (
        Skeleton(llama(), "float32", LoraConfig(), eager=eager).training_bytes(long, checkpointing=False)
        for eager in (False, True)
    )
    scores = 7 * 4 * (600 * 600 + 100 * 600) * 4  # layers, heads, what each answer's tokens see, bytes
    assert eager - fused == pytest.approx(scores, rel=0.25)
    assert fused == pytest.approx(allocated(llama(), long, attention="sdpa"), rel=0.07)


# What belongs to it


def test_weights_are_not_counted() -> None:
    wide = llama(hidden_size=1024, intermediate_size=4096, vocab_size=50_000)
    skeleton = Skeleton(wide, "float32", LoraConfig(r=1), eager=True)
    weights = sum(parameter.numel() * 4 for parameter in skeleton.parameters.values())
    assert skeleton.training_bytes([(1, 1, 1)], checkpointing=False) < 0.02 * weights


@both_ways
def test_the_gradients_of_all_adapter_parameters_are(checkpointing: bool) -> None:
    model, _, step = real_step(llama(), ONE, checkpointing=checkpointing)
    step()
    adapter = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert adapter and all("lora_" in name and p.grad is not None for name, p in adapter.items())
    gradients = sum(p.grad.nbytes for p in adapter.values())
    skeleton = Skeleton(llama(), "float32", LoraConfig(), eager=True)
    assert 4 * skeleton.adapter_parameters == gradients
    shortest = skeleton.training_bytes([(1, 1, 1)], checkpointing=checkpointing)  # almost no activations
    assert gradients <= shortest <= 1.1 * gradients


@slow
def test_they_are_in_a_deep_model_whose_head_is_the_peak_of_a_shallow_one() -> None:
    deep = llama(40, vocab_size=20_000)
    skeleton = Skeleton(deep, "bfloat16", LoraConfig(r=64), eager=True)
    assert skeleton.training_bytes([(8, 8, 8)], checkpointing=True) >= 4 * skeleton.adapter_parameters


@slow
def test_tracing_takes_no_memory_to_speak_of() -> None:
    config = model_config("meta-llama/Meta-Llama-3-8B-Instruct", None)
    skeleton = Skeleton(config, "bfloat16", LoraConfig(), eager=False)
    before = resident_bytes()
    assert skeleton.training_bytes([(1000, 500, 500)] * 4, checkpointing=False) > 40 << 30
    assert resident_bytes() - before < 256 << 20


# Training itself


@pytest.fixture
def by_trl(tiny_model: Path, tmp_path: Path) -> Callable[..., int]:
    """What trl's own step keeps, in micro-batches of some size."""

    def run(lengths: Pairs, micro_batch: int) -> int:
        rows = [[[5] * count for count in pair] for pair in lengths]
        pairs = [
            PreferencePair(str(i), "", prompt, 0, chosen, [], 1.0, 1, rejected, [], 0.0)
            for i, (prompt, chosen, rejected) in enumerate(rows)
        ]
        references = [ReferenceLogprobs(p.prompt_id, 0, 1, [-1.0], [-1.0]) for p in pairs]
        train = TrainConfig(batch_size=len(pairs))
        settings = DPOSettings(train, MemoryConfig(), SpeedConfig(), micro_batch, False, False)
        models = Models(tiny_model, "float32", "cpu")
        with models.trainable(None, train.lora, 0) as model:
            trainer = make_trainer(model, models.chat.tokenizer, pairs, references, settings, 0, tmp_path)
            with fast_forward(model.get_base_model(), settings.speed):
                (batch,) = trainer.get_train_dataloader()
                with Living([*model.parameters(), *batch.values()]) as living:
                    trainer.training_step(model, batch)
        return living.peak

    return run


@pytest.mark.parametrize("micro_batch", [2, 1])
def test_it_is_what_trl_s_own_step_keeps(by_trl: Callable[..., int], tiny_model: Path, micro_batch: int) -> None:
    """A later micro-batch finds the gradients of the first."""
    lengths: Pairs = [(60, 40, 40)] * 2
    skeleton = Skeleton(LlamaConfig.from_pretrained(tiny_model), "float32", LoraConfig(), eager=True)
    found = skeleton.training_bytes(lengths[:micro_batch], checkpointing=False, later=micro_batch < 2)
    assert found == pytest.approx(by_trl(lengths, micro_batch), rel=WITHIN)


@slow
@pytest.mark.parametrize(
    "speed",
    [
        SpeedConfig(fused_adapter=False),
        SpeedConfig(share_prompt=False),
        SpeedConfig(share_prompt=False, completion_head=False),
    ],
    ids=["peft's adapters", "prompts twice", "all logits"],
)
def test_it_holds_for_the_longer_ways(speed: SpeedConfig) -> None:
    cfg = RunConfig(speed=speed)
    parts = Plan(llama(), cfg, "cpu").costs.training(ONE, checkpointing=False)
    moving = parts["gradients"] + parts["activations"] + parts["head chunk"]
    assert moving >= (1 - WITHIN) * kept(llama(), ONE, dtype="bfloat16", speed=speed)
