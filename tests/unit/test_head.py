"""The output layer: log-probabilities of given tokens, chunk by chunk, against plain float64 and models' own logits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from selfreward.errors import ModelError
from selfreward.model.head import (
    CHUNK_BYTES,
    Head,
    check_head,
    log_total,
    mean_row,
    score_tokens,
    sharpen_,
    token_log_probs,
)

VOCABULARY = 50
CHUNKS = pytest.mark.parametrize("positions", [1, 3, 10, 1000])  # of ten: one by one, a last one alone, and all at once


@pytest.fixture
def drawn() -> tuple[Tensor, Tensor, Tensor]:
    """Ten hidden states, an output layer and targets, at random."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(10, 8, generator=generator)
    weight = torch.randn(VOCABULARY, 8, generator=generator)
    return hidden, weight, torch.randint(VOCABULARY, (10,), generator=generator)


def in_chunks_of(monkeypatch: pytest.MonkeyPatch, positions: int) -> None:
    monkeypatch.setitem(CHUNK_BYTES, "cpu", 4 * VOCABULARY * positions)


# Scores of given tokens


@CHUNKS
def test_scores_and_their_gradient_are_those_of_plain_autograd_in_float64(
    monkeypatch: pytest.MonkeyPatch, drawn: tuple[Tensor, Tensor, Tensor], positions: int
) -> None:
    in_chunks_of(monkeypatch, positions)
    hidden, weight, target = drawn
    hidden.requires_grad_()
    coefficients = torch.randn(10, generator=torch.Generator().manual_seed(1))
    scores = score_tokens(hidden, weight, target, mean_row(weight))
    (scores.log_probs_T * coefficients).sum().backward()
    assert hidden.grad is not None

    exact = hidden.detach().double().requires_grad_()
    logits = exact @ weight.double().T
    log_probs = logits.log_softmax(-1)
    picked = log_probs.gather(-1, target[:, None])[:, 0]
    (picked * coefficients.double()).sum().backward()
    torch.testing.assert_close(scores.log_probs_T.double(), picked.detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(hidden.grad.double(), exact.grad, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(scores.entropy_T.double(), -(log_probs.exp() * log_probs).sum(-1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(scores.mean_logits_T.double(), logits.mean(-1).detach(), rtol=1e-4, atol=1e-5)
    assert scores.is_top1_T.tolist() == (logits.argmax(-1) == target).tolist()


@CHUNKS
def test_log_probabilities_alone_are_the_same_to_the_last_bit(
    monkeypatch: pytest.MonkeyPatch, drawn: tuple[Tensor, Tensor, Tensor], positions: int
) -> None:
    in_chunks_of(monkeypatch, positions)
    hidden, weight, target = drawn
    found = token_log_probs(hidden, weight, target)
    assert torch.equal(found, score_tokens(hidden, weight, target, mean_row(weight)).log_probs_T)
    exact = (hidden.double() @ weight.double().T).log_softmax(-1).gather(-1, target[:, None])[:, 0]
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-5)


def test_the_likeliest_token_is_known_as_such(drawn: tuple[Tensor, Tensor, Tensor]) -> None:
    hidden, weight, _ = drawn
    likeliest = (hidden @ weight.T).argmax(-1)
    assert score_tokens(hidden, weight, likeliest, mean_row(weight)).is_top1_T.all()
    assert not score_tokens(hidden, weight, (likeliest + 1) % VOCABULARY, mean_row(weight)).is_top1_T.any()


def test_log_probabilities_alone_carry_a_gradient_and_the_output_layer_gets_none(
    drawn: tuple[Tensor, Tensor, Tensor],
) -> None:
    hidden, weight, target = drawn[0].requires_grad_(), drawn[1].requires_grad_(), drawn[2]
    scores = score_tokens(hidden, weight, target, mean_row(weight.detach()))
    scores.log_probs_T.sum().backward()
    assert hidden.grad is not None
    assert weight.grad is None
    assert not any(t.requires_grad for t in (scores.entropy_T, scores.mean_logits_T, scores.is_top1_T))


def test_the_mean_row_is_that_of_all_rows_however_many_there_are() -> None:
    weight = torch.randn(10_000, 4, generator=torch.Generator().manual_seed(0)).bfloat16()
    torch.testing.assert_close(mean_row(weight).double(), weight.double().mean(0), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("shift", [0.0, 1e4, -1e4])
def test_the_log_total_is_logsumexp_also_where_exponentials_would_overflow(shift: float) -> None:
    logits = 5 * torch.randn(7, 300, generator=torch.Generator().manual_seed(0)) + shift
    torch.testing.assert_close(log_total(logits).double(), logits.double().logsumexp(-1), rtol=1e-6, atol=1e-5)


# In bfloat16


@pytest.mark.parametrize(("vocabulary", "width", "sharpness"), [(600, 64, 4.0), (600, 64, 8.0), (20_000, 256, 4.0)])
def test_in_bfloat16_log_probabilities_are_nearly_those_of_float32(
    vocabulary: int, width: int, sharpness: float
) -> None:
    """From the same bfloat16 states and weights. Without sharpening they are off by more than ten times as much."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(64, width, generator=generator).bfloat16()
    weight = (sharpness / width**0.5 * torch.randn(vocabulary, width, generator=generator)).bfloat16()
    target = torch.randint(vocabulary, (64,), generator=generator)

    def of(logits: Tensor) -> Tensor:
        return logits.float().log_softmax(-1).gather(-1, target[:, None])[:, 0]

    expected = of(hidden.float() @ weight.float().T)
    off = (token_log_probs(hidden, weight, target) - expected).abs()
    blunt = (of(hidden @ weight.T) - expected).abs()
    assert off.max() < 2e-3
    assert blunt.max() > 10 * off.max() and blunt.mean() > 10 * off.mean()
    scores = score_tokens(hidden, weight, target, mean_row(weight))
    assert torch.equal(scores.log_probs_T, token_log_probs(hidden, weight, target))


def test_sharpening_replaces_the_highest_and_the_wanted_logits_and_no_others() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(5, 64, generator=generator).bfloat16()
    weight = torch.randn(600, 64, generator=generator).bfloat16()
    wanted = torch.randint(600, (5, 2), generator=generator)
    exact, blunt = hidden.float() @ weight.float().T, (hidden @ weight.T).float()
    found = sharpen_(blunt.clone(), hidden, weight, wanted)
    is_sharp = torch.isclose(found, exact, rtol=1e-5, atol=1e-5)
    assert is_sharp.gather(1, blunt.topk(16).indices).all()
    assert is_sharp.gather(1, wanted).all()
    touched = found != blunt
    assert touched.sum(1).max() <= 16 + 2
    assert is_sharp[touched].all()


def test_in_float32_there_is_nothing_to_sharpen(drawn: tuple[Tensor, Tensor, Tensor]) -> None:
    hidden, weight, _ = drawn
    logits = hidden @ weight.T
    assert torch.equal(sharpen_(logits.clone(), hidden, weight), logits)


# A model's output layer

SMALL: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
MODELS = {  # whose output layer multiplies and no more, has a bias, a soft cap, a factor, a divisor
    "Llama": {},
    "Phi": {},
    "Gemma2": {"final_logit_softcapping": 2.0, "head_dim": 8},
    "Cohere": {"logit_scale": 0.25},
    "Granite": {"logits_scaling": 3.0},
}
ODD = {  # whose output layer does something under a name of its own, or another thing under a known one
    "HyperCLOVAX": {"logits_scaling": 3.0},
    "RecurrentGemma": {"logits_soft_cap": 2.0},
}


def random_model(kind: str) -> Any:
    """A small model of this kind whose every number is random, so that nothing it does goes unseen."""
    config = getattr(transformers, f"{kind}Config")(**SMALL, **(MODELS | ODD)[kind])
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.mark.parametrize("kind", MODELS)
@torch.no_grad()
def test_logits_and_log_probabilities_are_the_models_own(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    in_chunks_of(monkeypatch, 2)
    model = random_model(kind)
    ids = torch.arange(3, 12)[None]
    expected = model(input_ids=ids, use_cache=False).logits[0]
    hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state[0]
    head = Head(model)
    assert head.is_plain == (kind == "Llama")
    torch.testing.assert_close(head.logits(hidden), expected, rtol=1e-5, atol=1e-5)
    wanted = torch.stack([ids[0], ids[0].flip(0)], 1)
    own = expected.double().log_softmax(-1).gather(-1, wanted)
    torch.testing.assert_close(head.log_probs(hidden, wanted).double(), own, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ODD)
@torch.no_grad()
def test_an_output_layer_that_is_not_known_is_refused_or_right(kind: str) -> None:
    model = random_model(kind)
    ids = torch.arange(3, 12)[None]
    hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state[0]
    try:
        check_head(model)
    except ModelError:
        return
    logits = Head(model).logits(hidden)
    torch.testing.assert_close(logits, model(input_ids=ids, use_cache=False).logits[0], rtol=1e-5, atol=1e-5)


def test_a_model_that_treats_its_logits_in_a_way_not_known_is_refused() -> None:
    model = random_model("Llama")
    check_head(model)
    model.lm_head.register_forward_hook(lambda module, inputs, logits: 2 * logits)
    with pytest.raises(ModelError, match="LlamaForCausalLM treats its logits in a way that is not known here"):
        check_head(model)
