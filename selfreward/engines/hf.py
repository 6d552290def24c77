"""The default engine: transformers in this process, on a CPU or one GPU."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property, partial

import numpy as np
import torch
from torch import Tensor

from selfreward.cap import check_resident
from selfreward.engines.base import SHORTEN, Advance, Completion, Decoding, SampleRequest
from selfreward.engines.local import nucleus
from selfreward.engines.local.blocked_linear import OutputProduct, blocked, can_block
from selfreward.engines.local.forward import Forward, Prompts
from selfreward.engines.local.halving import halving
from selfreward.engines.local.padded_forward import PaddedForward
from selfreward.engines.local.shared_forward import SharedForward
from selfreward.errors import ModelError
from selfreward.model.adapters import Adapter
from selfreward.model.attention import KERNELS, is_exchangeable
from selfreward.model.chat import Chat
from selfreward.model.head import Head
from selfreward.model.models import Models


class HFEngine:
    """Samples and scores with the base model of `models`.

    Args:
        rows: answers decoded side by side.
        scoring_tokens: tokens in one pass over given texts.
        merge_adapter: fold the adapter into the weights while sampling.
        blocked_weights: sample with a second copy of the weights, laid out for it, where the machine can.
        cuda_graphs: have a GPU capture steps of decoding and replay them.
        ram_gb: main memory that the process may hold, in GiB; past it a batch is cut in two, as on any device
            whose memory runs out.

    `decoded` and `kept` count the tokens that were decoded, and those of them that are part of an answer: rows that
    are finished stay in the batch for a while.
    """

    def __init__(
        self,
        models: Models,
        rows: int,
        scoring_tokens: int,
        *,
        merge_adapter: bool,
        blocked_weights: bool = True,
        cuda_graphs: bool = True,
        ram_gb: float | None = None,
    ) -> None:
        self._ram_gb = ram_gb
        self._models = models
        self._rows = rows
        self._scoring_tokens = scoring_tokens
        self._merge = merge_adapter
        self._block = blocked_weights
        self._cuda_graphs = cuda_graphs
        self.decoded = self.kept = 0

    @property
    def chat(self) -> Chat:
        return self._models.chat

    @torch.inference_mode()
    def sample(
        self, requests: Sequence[SampleRequest], decoding: Decoding, adapter: Adapter | None, advance: Advance
    ) -> list[list[Completion]]:
        """For each request one answer a seed; prompts are computed once, however many answers they have."""
        rows = [request.prompt_ids for request in requests]
        self._check_length(max(map(len, rows), default=0) + decoding.max_new_tokens)
        answers: dict[int, list[Completion]] = {}
        with self._models.policy(adapter, merged=self._merge), self._forward.ready(), self._blocked as product:
            before = self._forward.computed
            prompts = self._forward.prompts(rows)
            advance(0, self._forward.computed - before)
            decode = partial(self._decode, requests, prompts, decoding, product, advance)
            for batch, made in halving(self._sample_batches(requests), decode):
                answers.update(zip(batch, made, strict=True))
        return [answers[i] for i in range(len(requests))]

    @torch.inference_mode()
    def score(
        self, prompts: Sequence[list[int]], choice_ids: Sequence[int], adapter: Adapter | None, advance: Advance
    ) -> list[list[float]]:
        """One prefill a prompt; only last positions are projected, in float32."""
        self._check_length(max(map(len, prompts), default=0))
        scores: dict[int, list[float]] = {}
        with self._models.policy(adapter), self._forward.ready():
            before = self._forward.computed
            for batch, state_BH in self._forward.last_states(prompts):
                choices_BC = torch.tensor(choice_ids, device=state_BH.device).expand(len(batch), -1)
                scores.update(zip(batch, self._head.log_probs(state_BH, choices_BC).tolist(), strict=True))
                advance(len(batch), self._forward.computed - before)
                before = self._forward.computed
        return [scores[i] for i in range(len(prompts))]

    @torch.inference_mode()
    def logprobs(
        self, prompts: Sequence[list[int]], completions: Sequence[list[int]], adapter: Adapter | None, advance: Advance
    ) -> list[list[float]]:
        """One forward pass a row; only completion positions are projected."""
        rows = [prompt + completion for prompt, completion in zip(prompts, completions, strict=True)]
        self._check_length(max(map(len, rows), default=0))
        found: dict[int, list[float]] = {}
        with self._models.policy(adapter, merged=self._merge), self._forward.ready():
            for batch, states in self._forward.states(rows):
                for row, state_LH in zip(batch, states, strict=True):
                    # The hidden state at position p predicts the token at p + 1.
                    first, last = len(prompts[row]) - 1, len(rows[row]) - 1
                    targets_T1 = torch.tensor(completions[row], device=state_LH.device)[:, None]
                    found[row] = self._head.log_probs(state_LH[first:last], targets_T1)[:, 0].tolist()
                advance(len(batch), sum(len(rows[row]) for row in batch))
        return [found[i] for i in range(len(rows))]

    def close(self) -> None:
        """Nothing was started."""

    @cached_property
    def _head(self) -> Head:
        return Head(self._models.base)

    @property
    def _blocked(self) -> AbstractContextManager[OutputProduct | None]:
        model = self._models.base
        return blocked(model) if self._block and can_block(model) else nullcontext()

    @cached_property
    def _forward(self) -> Forward:
        model, check = self._models.base, partial(check_resident, self._ram_gb)
        if model.config._attn_implementation in KERNELS and is_exchangeable(model):
            return SharedForward(model, self._scoring_tokens, check, cuda_graphs=self._cuda_graphs)
        return PaddedForward(model, self.chat.tokenizer.pad_token_id, self._scoring_tokens, check)

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
        self,
        everything: Sequence[SampleRequest],
        prompts: Prompts,
        decoding: Decoding,
        product: OutputProduct | None,
        advance: Advance,
        batch: list[int],
    ) -> list[list[Completion]]:
        requests = [everything[i] for i in batch]
        answers = len(requests[0].seeds)
        total = len(requests) * answers
        uniforms_BT = self._uniforms([seed for r in requests for seed in r.seeds], decoding.max_new_tokens)
        ends = torch.tensor(self.chat.end_ids, device=self._models.device)
        before = self._forward.computed
        state_PH, growing = prompts.open(batch, answers, decoding.max_new_tokens)
        state_BH = state_PH.repeat_interleave(answers, 0)
        advance(0, self._forward.computed - before)

        made = _SampledTokens(total, decoding.max_new_tokens, self._models.device)
        answer_B = torch.arange(total, device=state_BH.device)  # the answer that each row of the batch belongs to
        open_B = torch.ones(total, dtype=torch.bool, device=state_BH.device)
        were_open = total
        for step in range(decoding.max_new_tokens):
            token_B, logprob_B = self._draw(state_BH, uniforms_BT[answer_B, step], decoding, product)
            ended_B = torch.isin(token_B, ends)
            made.add(step, answer_B, token_B, logprob_B, open_B, ended_B)
            open_B &= ~ended_B
            still_open = int(open_B.sum())
            self.decoded += len(answer_B)
            self.kept += were_open
            steps_saved = (were_open - still_open) * (decoding.max_new_tokens - step - 1)
            advance((were_open + steps_saved) / (answers * decoding.max_new_tokens), were_open)
            were_open = still_open
            if not still_open or step == decoding.max_new_tokens - 1:
                break
            rows = len(answer_B)
            if self._forward.drops(rows - still_open, rows, decoding.max_new_tokens - step - 1):
                kept = open_B.nonzero()[:, 0]
                growing.keep(kept)
                answer_B, token_B, open_B = answer_B[kept], token_B[kept], open_B[kept]
            state_BH = growing.step(token_B)
        completions = made.completions()
        return [completions[start : start + answers] for start in range(0, total, answers)]

    def _draw(
        self, state_BH: Tensor, uniform_B: Tensor, decoding: Decoding, product: OutputProduct | None
    ) -> tuple[Tensor, Tensor]:
        """The next token of each row, and its log-probability."""
        drawn: list[tuple[Tensor, Tensor]] = []
        done = 0
        for logits_CV in self._head.logit_chunks(state_BH, product):
            uniform_C = uniform_B[done : done + len(logits_CV)]
            drawn.append(nucleus.draw(logits_CV, uniform_C, decoding.temperature, decoding.top_p))
            done += len(logits_CV)
        tokens, logprobs = zip(*drawn, strict=True)
        return torch.cat(tokens), torch.cat(logprobs)

    def _uniforms(self, seeds: Sequence[int], steps: int) -> Tensor:
        numbers = np.stack([np.random.default_rng(seed).random(steps) for seed in seeds])
        device = self._models.device
        return torch.from_numpy(numbers).to(device, torch.float32 if device.type == "mps" else torch.float64)

    def _check_length(self, tokens: int) -> None:
        limit = getattr(self._models.base.config.get_text_config(), "max_position_embeddings", None)
        if limit is not None and tokens > limit:
            raise ModelError(f"a sequence of {tokens} tokens is beyond the model's {limit}: {SHORTEN}")


class _SampledTokens:
    """Answers as they grow, on the device: nothing is fetched before the end."""

    def __init__(self, total: int, steps: int, device: torch.device) -> None:
        self._token_AT = torch.zeros(total, steps, dtype=torch.long, device=device)
        self._logprob_AT = torch.zeros(total, steps, device=device)
        self._length_A = torch.zeros(total, dtype=torch.long, device=device)
        self._finished_A = torch.zeros(total, dtype=torch.bool, device=device)

    def add(
        self, step: int, answer_B: Tensor, token_B: Tensor, logprob_B: Tensor, open_B: Tensor, ended_B: Tensor
    ) -> None:
        """A step's tokens; those of answers that are no longer open come after an answer's end, and don't count."""
        self._token_AT[answer_B, step] = token_B
        self._logprob_AT[answer_B, step] = logprob_B
        self._length_A[answer_B] += open_B
        self._finished_A[answer_B] |= open_B & ended_B

    def completions(self) -> list[Completion]:
        """All of them, in their order."""
        columns = (self._token_AT, self._logprob_AT, self._length_A, self._finished_A)
        rows = zip(*(column.tolist() for column in columns), strict=True)
        return [Completion(tokens[:length], logprobs[:length], done) for tokens, logprobs, length, done in rows]
