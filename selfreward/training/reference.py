"""What training compares the policy with: the pairs' log-probabilities under the reference, computed once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any

import torch
from peft import PeftModel
from trl.trainer.dpo_trainer import DataCollatorForPreference
from trl.trainer.utils import add_fused_lm_head

from selfreward.config import SpeedConfig
from selfreward.errors import TrainingError
from selfreward.group import ALONE, Group
from selfreward.model.batches import padded_batches
from selfreward.model.patched import forward_kept
from selfreward.records import PreferencePair, ReferenceLogprobs
from selfreward.training.forward import fast_forward

PARITY_TOLERANCE = {torch.float32: 1e-3, torch.float16: 0.03, torch.bfloat16: 0.1}
"""How far reference log-probabilities may be from training's own, in nats a token, averaged over a few pairs."""
_ROUNDINGS = 2.0
"""How many times as far off as training is off itself others may be: two that only round are about once."""
_CHECKED_PAIRS = 2

AnswerPair = tuple[list[int], list[int], list[int]]
"""The tokens of a prompt and of two answers to it."""
LogprobPair = tuple[list[float], list[float]]
"""The log-probability of each token of either answer."""


def compute_references(
    model: Any,
    tokenizer: Any,
    pairs: Sequence[PreferencePair],
    speed: SpeedConfig,
    tokens: int,
    advance: Callable[[int, int], None],
    group: Group = ALONE,
) -> list[ReferenceLogprobs]:
    """Log-probabilities of each pair under `model` as it stands, by the forward pass that training takes.

    The model is the base with or without peft's around it: the adapter that is switched on counts. Batches hold pairs
    of like length, `tokens` tokens at most; `advance` is told of pairs and tokens done. The processes of `group` divide
    the batches, which are the same however many they are.
    """
    scored = compute_logprobs(model, tokenizer, [_answers(pair) for pair in pairs], speed, tokens, advance, group)
    return [_reference(pair, logprobs) for pair, logprobs in zip(pairs, scored, strict=True)]


def compute_logprobs(
    model: Any,
    tokenizer: Any,
    answers: Sequence[AnswerPair],
    speed: SpeedConfig,
    tokens: int,
    advance: Callable[[int, int], None],
    group: Group = ALONE,
) -> list[LogprobPair]:
    """As `compute_references`, of any two answers to each prompt."""
    base: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    model.eval()
    found: dict[int, LogprobPair] = {}
    with forward_kept(base):
        add_fused_lm_head(base)
        with fast_forward(base, speed):
            for batch in group.mine(list(padded_batches([*map(_tokens, answers)], tokens))):
                found.update(zip(batch, _score(model, tokenizer, [answers[i] for i in batch]), strict=True))
                advance(len(batch), sum(_tokens(answers[i]) for i in batch))
    for others in group.gather(found):
        found.update(others)
    return [found[i] for i in range(len(answers))]


def _score_pairs(model: Any, tokenizer: Any, pairs: Sequence[PreferencePair]) -> list[ReferenceLogprobs]:
    """Log-probabilities of a batch of pairs by a model that answers trl's `fused_lm_head` calls."""
    scored = _score(model, tokenizer, [_answers(pair) for pair in pairs])
    return [_reference(pair, logprobs) for pair, logprobs in zip(pairs, scored, strict=True)]


@torch.no_grad()
def _score(model: Any, tokenizer: Any, answers: Sequence[AnswerPair]) -> list[LogprobPair]:
    rows = [{"prompt_ids": prompt, "chosen_ids": one, "rejected_ids": other} for prompt, one, other in answers]
    inputs = DataCollatorForPreference(pad_token_id=tokenizer.pad_token_id)(rows)
    inputs = {name: values.to(model.device) for name, values in inputs.items()}
    scored_BL = inputs.pop("completion_mask").bool()
    labels_BL = inputs["input_ids"].masked_fill(~scored_BL, -100)
    log_probs_BL = model(**inputs, labels=labels_BL, use_cache=False, fused_lm_head=True).log_probs.cpu()
    scored_BL = scored_BL[:, 1:].cpu()
    values = [log_probs_L[scored_L].tolist() for log_probs_L, scored_L in zip(log_probs_BL, scored_BL, strict=True)]
    return list(zip(values[: len(answers)], values[len(answers) :], strict=True))


def recorded_references(pairs: Sequence[PreferencePair]) -> list[ReferenceLogprobs]:
    """The log-probabilities that were recorded when the candidates were sampled."""
    return [
        ReferenceLogprobs(p.prompt_id, p.chosen_index, p.rejected_index, p.chosen_logprobs, p.rejected_logprobs)
        for p in pairs
    ]


def check_parity(
    model: Any, tokenizer: Any, pairs: Sequence[PreferencePair], references: Sequence[ReferenceLogprobs]
) -> float:
    """Compute the reference of a few pairs again, the shortest, and hold it against what is given.

    Returns the mean absolute difference in nats a token. Raises `TrainingError` where it is beyond `tolerance`.
    """
    both = sorted(zip(pairs, references, strict=True), key=lambda both: _tokens(_answers(both[0])))[:_CHECKED_PAIRS]
    again = _score_pairs(model, tokenizer, [pair for pair, _ in both])
    alone = [_score_pairs(model, tokenizer, [pair])[0] for pair, _ in both]
    off = fmean(difference(given, now) for (_, given), now in zip(both, again, strict=True))
    limit = tolerance(model.dtype, fmean(map(difference, again, alone)))
    if not off <= limit:
        raise TrainingError(
            f"the reference log-probabilities are {off:.3g} nats a token off those that training computes, more than "
            f"{limit:.3g}: another model or engine made them; where sampling did, use train.reference_logprobs=computed"
        )
    return off


def tolerance(dtype: torch.dtype, rounding: float) -> float:
    """How far log-probabilities may be from training's own, in nats a token: that of the type of number, or, where it
    is more, twice what training is `rounding` itself when it scores the same in another batch (ADR 15)."""
    return max(PARITY_TOLERANCE[dtype], _ROUNDINGS * rounding)


def difference(one: ReferenceLogprobs, other: ReferenceLogprobs) -> float:
    """Mean absolute difference of two accounts of a pair, in nats a token."""
    return fmean(abs(a - b) for a, b in zip(one.chosen + one.rejected, other.chosen + other.rejected, strict=True))


def _answers(pair: PreferencePair) -> AnswerPair:
    return pair.prompt_ids, pair.chosen_ids, pair.rejected_ids


def _reference(pair: PreferencePair, logprobs: LogprobPair) -> ReferenceLogprobs:
    return ReferenceLogprobs(pair.prompt_id, pair.chosen_index, pair.rejected_index, *logprobs)


def _tokens(answers: AnswerPair) -> int:
    return sum(map(len, answers))
