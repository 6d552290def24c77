"""The prompt once: chosen and rejected in one row, and only their own positions scored.

trl gives the model each pair as two rows, prompt and chosen, prompt and rejected, and asks for the log-probability of
each completion token. Here the forward that answers lays a pair out as one row (prompt, chosen, rejected) in which
positions restart for the rejected and it doesn't see the chosen. What comes back is what trl asked for, exact to
rounding, so all of trl's losses stay as they are.
"""

from __future__ import annotations

import types
from typing import Any

import torch
from torch import Tensor
from trl.trainer.utils import FusedCausalLMOutput

from selfreward.training.head import score_tokens


def share_prompts(model: Any) -> bool:
    """Have `model` answer trl's `fused_lm_head` calls with shared prompts. Other calls go where they went before.

    Returns False, and leaves the model alone, where its output layer does more than multiply: then trl's own forward
    is the exact one.
    """
    config = model.config.get_text_config()
    scaled = ("final_logit_softcapping", "logit_scale", "logits_scaling", "output_multiplier", "lm_head_multiplier")
    head = model.get_output_embeddings()
    plain = not any(getattr(config, name, None) for name in scaled) and getattr(head, "bias", None) is None
    if not plain or getattr(config, "output_router_logits", False) or getattr(config, "sliding_window", None):
        return False
    previous = model.forward

    def forward(self: Any, *args: Any, fused_lm_head: bool = False, **kwargs: Any) -> Any:
        if not fused_lm_head:
            return previous(*args, **kwargs)
        return _score_pairs(self, kwargs["input_ids"], kwargs["attention_mask"], kwargs["labels"])

    model.forward = types.MethodType(forward, model)
    return True


def _score_pairs(model: Any, ids_BL: Tensor, mask_BL: Tensor, labels_BL: Tensor) -> FusedCausalLMOutput:
    """What trl asks for: the first half of the rows are prompts with their chosen, the second half with rejected."""
    pairs = len(ids_BL) // 2
    scored_BL = labels_BL != -100
    prompt_B = scored_BL.int().argmax(-1)
    length_B = mask_BL.sum(-1)
    prompt, chosen_end, rejected_end = prompt_B[:pairs].tolist(), length_B[:pairs].tolist(), length_B[pairs:].tolist()

    rows: list[Tensor] = []
    positions: list[Tensor] = []
    sources: list[Tensor] = []  # places in the flattened new rows whose states predict a completion token
    for pair in range(pairs):
        start, chosen, rejected = prompt[pair], chosen_end[pair] - prompt[pair], rejected_end[pair] - prompt[pair]
        rows.append(torch.cat([ids_BL[pair, : chosen_end[pair]], ids_BL[pairs + pair, start : rejected_end[pair]]]))
        place = torch.arange(start + chosen + rejected, device=ids_BL.device)
        positions.append(torch.where(place < start + chosen, place, place - chosen))
        # The last prompt position predicts the first token of both; each other token is predicted by the one before it.
        sources.append(place[start - 1 : start + chosen - 1])
        second = place[start + chosen - 1 : start + chosen + rejected - 1].clone()
        second[:1] = start - 1
        sources.append(second)

    width = max(len(row) for row in rows)
    ids_PN = torch.stack([torch.nn.functional.pad(row, (0, width - len(row))) for row in rows])
    positions_PN = torch.stack([torch.nn.functional.pad(place, (0, width - len(place))) for place in positions])
    output: Any = model.base_model(
        input_ids=ids_PN,
        attention_mask=_mask(prompt, chosen_end, width, model.dtype, ids_BL.device),
        position_ids=positions_PN,
        use_cache=False,
    )
    hidden_PNH = output.last_hidden_state
    chosen_states = [hidden_PNH[pair, sources[2 * pair]] for pair in range(pairs)]
    rejected_states = [hidden_PNH[pair, sources[2 * pair + 1]] for pair in range(pairs)]
    shifted_BL = scored_BL[:, 1:]
    scores = score_tokens(
        torch.cat(chosen_states + rejected_states), model.get_output_embeddings().weight, labels_BL[:, 1:][shifted_BL]
    )

    def spread(values_T: Tensor) -> Tensor:
        return values_T.new_zeros(shifted_BL.shape).masked_scatter(shifted_BL, values_T)

    log_probs_BL = spread(scores.log_probs_T)
    return FusedCausalLMOutput(
        loss=-log_probs_BL.sum() / shifted_BL.sum().clamp(min=1),
        log_probs=log_probs_BL,
        entropy=spread(scores.entropy_T),
        mean_logits=spread(scores.mean_logits_T),
        is_top1=spread(scores.is_top1_T),
        label_mask=shifted_BL,
    )


def _mask(prompt: list[int], chosen_end: list[int], width: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Additive attention mask (pairs, 1, width, width): causal, and rejected positions don't see chosen ones."""
    place_N = torch.arange(width, device=device)
    prompt_P1 = torch.tensor(prompt, device=device)[:, None]
    chosen_end_P1 = torch.tensor(chosen_end, device=device)[:, None]
    is_chosen_PN = (place_N >= prompt_P1) & (place_N < chosen_end_P1)
    is_rejected_PN = place_N >= chosen_end_P1
    hidden_PNN = is_rejected_PN[:, :, None] & is_chosen_PN[:, None, :]
    seen_PNN = (place_N[:, None] >= place_N[None, :]) & ~hidden_PNN
    return torch.zeros(seen_PNN.shape, dtype=dtype, device=device).masked_fill_(~seen_PNN, torch.finfo(dtype).min)[
        :, None
    ]
