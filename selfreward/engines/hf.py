"""The default engine: transformers in this process, on a CPU or one GPU."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from selfreward.adapters import Adapter
from selfreward.cap import check_resident
from selfreward.chat import Chat
from selfreward.engines import nucleus
from selfreward.engines.base import Advance, Completion, Decoding, SampleRequest
from selfreward.engines.halving import halving
from selfreward.errors import ModelError
from selfreward.head import Head
from selfreward.models import Models

_DROP_SHARE = 0.125  # finished rows are dropped once they are this share of the batch: each drop copies the cache


class HFEngine:
    """Samples and scores with the base model of `models`.

    Args:
        rows: answers decoded side by side.
        scoring_tokens: tokens in one scoring batch, padding included.
        merge_adapter: fold the adapter into the weights while sampling.
        ram_gb: main memory that the process may hold, in GiB; past it a batch is cut in two, as on any device
            whose memory runs out.
    """

    def __init__(
        self, models: Models, rows: int, scoring_tokens: int, *, merge_adapter: bool, ram_gb: float | None = None
    ) -> None:
        self._ram_gb = ram_gb
        self._models = models
        self._rows = rows
        self._scoring_tokens = scoring_tokens
        self._merge = merge_adapter

    @property
    def chat(self) -> Chat:
        return self._models.chat

    @cached_property
    def _head(self) -> Head:
        return Head(self._models.base)

    @torch.inference_mode()
    def sample(
        self, requests: Sequence[SampleRequest], decoding: Decoding, adapter: Adapter | None, advance: Advance
    ) -> list[list[Completion]]:
        """For each request one answer a seed; prompts are computed once, however many answers they have."""
        longest = max((len(request.prompt_ids) for request in requests), default=0)
        self._check_length(longest + decoding.max_new_tokens)
        answers: dict[int, list[Completion]] = {}
        with self._models.policy(adapter, merged=self._merge):
            decode = partial(self._decode, requests, decoding, advance)
            for batch, made in halving(self._sample_batches(requests), decode):
                answers.update(zip(batch, made, strict=True))
        return [answers[i] for i in range(len(requests))]

    @torch.inference_mode()
    def score(
        self, prompts: Sequence[list[int]], choice_ids: Sequence[int], adapter: Adapter | None, advance: Advance
    ) -> list[list[float]]:
        """One prefill a prompt, and one for what all begin with; only last positions are projected, in float32."""
        scores: dict[int, list[float]] = {}
        shared = _common_prefix(prompts)
        with self._models.policy(adapter):
            for batch, hidden_BLH, lengths_B in self._prefill(prompts, shared):
                last_BH = hidden_BLH[torch.arange(len(batch), device=lengths_B.device), lengths_B - 1]
                choices_BC = torch.tensor(choice_ids, device=last_BH.device).expand(len(batch), -1)
                logprobs_BC = self._head.log_probs(last_BH, choices_BC)
                scores.update(zip(batch, logprobs_BC.tolist(), strict=True))
                advance(len(batch), int(lengths_B.sum()))
        return [scores[i] for i in range(len(prompts))]

    @torch.inference_mode()
    def logprobs(
        self, prompts: Sequence[list[int]], completions: Sequence[list[int]], adapter: Adapter | None, advance: Advance
    ) -> list[list[float]]:
        """One forward pass a row; only completion positions are projected."""
        rows = [prompt + completion for prompt, completion in zip(prompts, completions, strict=True)]
        found: dict[int, list[float]] = {}
        with self._models.policy(adapter):
            for batch, hidden_BLH, lengths_B in self._prefill(rows, shared=0):
                for place, row in enumerate(batch):
                    # The hidden state at position p predicts the token at p + 1.
                    first, last = len(prompts[row]) - 1, len(rows[row]) - 1
                    targets_T1 = torch.tensor(completions[row], device=hidden_BLH.device)[:, None]
                    found[row] = self._head.log_probs(hidden_BLH[place, first:last], targets_T1)[:, 0].tolist()
                advance(len(batch), int(lengths_B.sum()))
        return [found[i] for i in range(len(rows))]

    def _sample_batches(self, requests: Sequence[SampleRequest]) -> Iterator[list[int]]:
        """Requests of like prompt length and equal number of answers together, at most `rows` answers a batch."""
        order = sorted(range(len(requests)), key=lambda i: (len(requests[i].seeds), len(requests[i].prompt_ids)))
        batch: list[int] = []
        for i in reversed(order):
            answers = len(requests[i].seeds)
            if batch and (answers != len(requests[batch[0]].seeds) or (len(batch) + 1) * answers > self._rows):
                yield batch
                batch = []
            batch.append(i)
        if batch:
            yield batch

    def _decode(
        self, everything: Sequence[SampleRequest], decoding: Decoding, advance: Advance, batch: list[int]
    ) -> list[list[Completion]]:
        requests = [everything[i] for i in batch]
        answers = len(requests[0].seeds)
        total = len(requests) * answers
        uniforms_BT = self._uniforms([seed for r in requests for seed in r.seeds], decoding.max_new_tokens)
        ends = torch.tensor(self._models.end_ids, device=self._models.device)
        ids_PL, mask_PL = self._left_padded([request.prompt_ids for request in requests])
        cache = DynamicCache(config=self._models.base.config)
        logits_PV = self._step(ids_PL, mask_PL, cache)
        cache.batch_repeat_interleave(answers)
        logits_BV, mask_BL = logits_PV.repeat_interleave(answers, 0), mask_PL.repeat_interleave(answers, 0)
        advance(0, int(mask_PL.sum()))

        tokens: list[list[int]] = [[] for _ in range(total)]
        logprobs: list[list[float]] = [[] for _ in range(total)]
        finished = [False] * total
        rows = torch.arange(total, device=ids_PL.device)  # the answer that each row of the batch belongs to
        open_B = torch.ones(total, dtype=torch.bool, device=ids_PL.device)
        for step in range(decoding.max_new_tokens):
            token_B, logprob_B = nucleus.draw(logits_BV, uniforms_BT[rows, step], decoding.temperature, decoding.top_p)
            ended_B = torch.isin(token_B, ends)
            for row, token, logprob, ended, is_open in zip(
                rows.tolist(), token_B.tolist(), logprob_B.tolist(), ended_B.tolist(), open_B.tolist(), strict=True
            ):
                if is_open:
                    tokens[row].append(token)
                    logprobs[row].append(logprob)
                    finished[row] = ended
            still_open = int((open_B & ~ended_B).sum())
            steps_saved = (int(open_B.sum()) - still_open) * (decoding.max_new_tokens - step - 1)
            advance((int(open_B.sum()) + steps_saved) / (answers * decoding.max_new_tokens), int(open_B.sum()))
            open_B &= ~ended_B
            if not still_open or step == decoding.max_new_tokens - 1:
                break
            if (~open_B).sum() >= max(1, _DROP_SHARE * len(rows)):
                keep = open_B.nonzero()[:, 0]
                cache.batch_select_indices(keep)
                rows, token_B, mask_BL, open_B = rows[keep], token_B[keep], mask_BL[keep], open_B[keep]
            mask_BL = torch.cat([mask_BL, mask_BL.new_ones(len(mask_BL), 1)], 1)
            logits_BV = self._step(token_B[:, None], mask_BL, cache)
        made = [Completion(t, p, f) for t, p, f in zip(tokens, logprobs, finished, strict=True)]
        return [made[start : start + answers] for start in range(0, total, answers)]

    def _step(self, ids_BL: Tensor, mask_BL: Tensor, cache: DynamicCache) -> Tensor:
        """Float32 logits of the next token, the cache extended by `ids_BL`."""
        positions_BL = (mask_BL.cumsum(1) - 1).clamp(min=0)[:, -ids_BL.shape[1] :]
        output: Any = self._models.base.get_decoder()(
            input_ids=ids_BL,
            attention_mask=mask_BL,
            position_ids=positions_BL,
            past_key_values=cache,
            use_cache=True,
        )
        check_resident(self._ram_gb)
        return self._head.logits(output.last_hidden_state[:, -1])

    def _prefill(self, rows: Sequence[list[int]], shared: int) -> Iterator[tuple[list[int], Tensor, Tensor]]:
        """Final hidden states (batch, length, hidden) of rows of like length, padded on the right.

        The first `shared` tokens, common to all rows, are computed once; states and lengths are without them.
        """
        self._check_length(max((len(row) for row in rows), default=0))
        decoder = self._models.base.get_decoder()
        prefix = DynamicCache(config=self._models.base.config)
        if shared:
            decoder(input_ids=torch.tensor([rows[0][:shared]], device=self._models.device), past_key_values=prefix)
        tails = [row[shared:] for row in rows]
        for batch, (hidden_BLH, lengths_B) in halving(self._score_batches(tails), partial(self._states, tails, prefix)):
            yield batch, hidden_BLH, lengths_B

    def _states(self, tails: Sequence[list[int]], prefix: DynamicCache, batch: list[int]) -> tuple[Tensor, Tensor]:
        """Final hidden states (batch, length, hidden) of some of the tails that follow `prefix`, and their lengths."""
        shared, pad = prefix.get_seq_length(), self.chat.tokenizer.pad_token_id
        lengths_B = torch.tensor([len(tails[i]) for i in batch], device=self._models.device)
        width = int(lengths_B.max())
        ids_BL = torch.tensor([tails[i] + [pad] * (width - len(tails[i])) for i in batch], device=self._models.device)
        places_L = torch.arange(shared + width, device=ids_BL.device)
        cache = copy.deepcopy(prefix)
        if shared:
            cache.batch_repeat_interleave(len(batch))
        output: Any = self._models.base.get_decoder()(
            input_ids=ids_BL,
            attention_mask=(places_L[None] < shared + lengths_B[:, None]).long(),
            position_ids=places_L[None, shared:].expand(len(batch), -1),
            past_key_values=cache if shared else None,
            use_cache=bool(shared),
        )
        check_resident(self._ram_gb)
        return output.last_hidden_state, lengths_B

    def _score_batches(self, rows: Sequence[list[int]]) -> Iterator[list[int]]:
        batch: list[int] = []
        for i in sorted(range(len(rows)), key=lambda i: len(rows[i]), reverse=True):
            if batch and (len(batch) + 1) * len(rows[batch[0]]) > self._scoring_tokens:
                yield batch
                batch = []
            batch.append(i)
        if batch:
            yield batch

    def _uniforms(self, seeds: Sequence[int], steps: int) -> Tensor:
        numbers = np.stack([np.random.default_rng(seed).random(steps) for seed in seeds])
        device = self._models.device
        return torch.from_numpy(numbers).to(device, torch.float32 if device.type == "mps" else torch.float64)

    def _left_padded(self, rows: Sequence[list[int]]) -> tuple[Tensor, Tensor]:
        width = max(len(row) for row in rows)
        pad = self.chat.tokenizer.pad_token_id
        ids = [[pad] * (width - len(row)) + row for row in rows]
        mask = [[0] * (width - len(row)) + [1] * len(row) for row in rows]
        return torch.tensor(ids, device=self._models.device), torch.tensor(mask, device=self._models.device)

    def _check_length(self, tokens: int) -> None:
        limit = getattr(self._models.base.config.get_text_config(), "max_position_embeddings", None)
        if limit is not None and tokens > limit:
            raise ModelError(
                f"a sequence of {tokens} tokens is beyond the model's {limit}: lower sampling.max_prompt_tokens, "
                "sampling.max_new_tokens or judge.max_new_tokens"
            )


def _common_prefix(rows: Sequence[list[int]]) -> int:
    """How many first tokens all rows share, at least one token of each left over."""
    if len(rows) < 2:
        return 0
    lowest, highest = min(rows), max(rows)
    limit = min(len(row) for row in rows) - 1
    return next((i for i in range(limit) if lowest[i] != highest[i]), limit)
