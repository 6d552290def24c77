"""What each phase of a run takes, in bytes, before anything loads: from a model's configuration and the settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

from selfreward.cap import CONTEXT_GIB, GIB
from selfreward.config import RunConfig
from selfreward.errors import ConfigError, ModelError
from selfreward.generation import WAYS
from selfreward.memory.trace import Skeleton
from selfreward.model.head import CHUNK_BYTES, FEW_BYTES, SHARPENED
from selfreward.roles import Role, all_engines, engine_settings

LIBRARIES_GIB = 0.8
"""What Python, PyTorch and the other libraries hold of main memory before a model is loaded, in GiB."""

NF4_BYTES = 0.516
"""Bytes a weight in NF4 with doubly quantised constants (QLoRA, arXiv 2305.14314, section 3: 4.127 bits)."""

MESSAGE_TOKENS = 512
"""Room for what a message says around what it shows: a judge's rubric around an answer, say."""

SERVED_MESSAGE_TOKENS = 2048
"""The same for a server, whose longest text can't be raised later: room for tokenizers that cut words small."""

_MICRO_BATCH_TOKENS = {"cpu": 1536, "cuda": 16384}
_SCORING_TOKENS = {"cpu": 2048, "cuda": 32768}

SERVED_STEP = 8192
"""Tokens that a server computes at once: vLLM's own choice on a large GPU is 8,192."""

SERVER_GIB = 2.0
"""What a vLLM server takes beyond what else is counted, in GiB, and this process's CUDA context; an upper guess."""

_JUDGING: tuple[Role, ...] = ("judge", "evaluation")

Parts = dict[str, int]
"""Bytes by what they are for."""

Lengths = tuple[int, int, int]
"""Of a pair: tokens of the prompt, of the chosen and of the rejected answer."""


class Costs:
    """Bytes of training, sampling and scoring, given how each is cut.

    Args:
        config: the model's configuration, as transformers reads it.
        cfg: the run's settings.
        kind: `cuda`, or `cpu` for all others.
        like: costs of the same model, whose tracing is used again where it holds.

    Raises `ModelError` for a model that the loop can't use, and `ConfigError` for a quantisation that needs CUDA or an
    adapter on layers that the model lacks.
    """

    def __init__(self, config: Any, cfg: RunConfig, kind: str, like: Costs | None = None) -> None:
        self.config, self.cfg, self.kind = config, cfg, kind
        self._text = config.get_text_config()
        if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING or not getattr(self._text, "num_attention_heads", None):
            raise ModelError(f"a model of type {config.model_type} can't be used: choose a decoder with attention")
        quantization = cfg.train.quantization
        if quantization != "none" and kind != "cuda":
            remedy = "bitsandbytes computes it on CUDA; set engine.device=cuda, or use none"
            raise ConfigError("train.quantization", quantization, remedy)
        self._skeletons: dict[str, Skeleton] = like._skeletons if like else {}
        if quantization not in self._skeletons:
            fused = cfg.speed.fused_adapter and quantization == "none"  # quantised layers keep peft's forward
            speed = dataclasses.replace(cfg.speed, fused_adapter=fused)
            made = Skeleton(config, cfg.model.dtype, cfg.train.lora, eager=kind == "cpu", speed=speed)
            self._skeletons[quantization] = made
        self._skeleton = self._skeletons[quantization]

    def under(self, cfg: RunConfig) -> Costs:
        """The costs of the same model under other settings."""
        return Costs(self.config, cfg, self.kind, like=self)

    @property
    def is_estimate(self) -> bool:
        """Whether training is estimated: the way of a model with routed experts depends on its data."""
        return not self._skeleton.is_traceable

    @property
    def longest_batch(self) -> list[Lengths]:
        """The lengths of a step's pairs where each is as long as the settings allow."""
        new = self.cfg.sampling.max_new_tokens
        return [(self.cfg.train.max_length - new, new, new)] * self.cfg.train.batch_size

    @property
    def longest_examples(self) -> list[Lengths]:
        """The same of a step that tunes policy 0, each example taken for a pair that rejects one token."""
        return [(self.cfg.tuning.max_length - 1, 1, 1)] * self.cfg.tuning.batch_size

    @property
    def micro_batch_tokens(self) -> int:
        """Tokens in one forward and backward pass; more are no faster."""
        return _MICRO_BATCH_TOKENS[self.kind]

    @cached_property
    def fixed(self) -> Parts:
        """What is there in every phase."""
        overhead = "CUDA context" if self.kind == "cuda" else "libraries"
        amount = CONTEXT_GIB if self.kind == "cuda" else LIBRARIES_GIB
        return {overhead: int(amount * GIB), "weights": self._weights, "adapter": 4 * self._skeleton.adapter_parameters}

    def training(self, pairs: Sequence[Lengths], *, checkpointing: bool, later: bool = False) -> Parts:
        """One micro-batch of these pairs; a `later` one finds the gradients of those before it."""
        gradients = 4 * self._skeleton.adapter_parameters
        if self.is_estimate:
            moving = self._estimate(pairs, checkpointing=checkpointing) + gradients
        else:
            moving = self._skeleton.training_bytes(pairs, checkpointing=checkpointing, later=later)
        head = self._head_bytes(sum(chosen + rejected for _, chosen, rejected in pairs))
        return self.fixed | {
            "gradients": gradients,
            "optimiser": 2 * gradients,
            "activations": max(moving - gradients - head, 0),
            "head chunk": head,
        }

    def tuning(self, step: Sequence[Lengths], size: int, checkpointing: bool) -> Parts:
        """The longest micro-batch of at most `size` examples of a step, whose longest come first.

        It is cut by its tokens too, unless it has one example. What examples begin with in common is counted for each:
        they may share nothing, and where they do, each still has its own copy of the keys and values that it sees.
        """
        examples, at_once = step[:size], list(step[:1])
        for example in examples[1:]:
            left = self.micro_batch_tokens - sum(map(sum, at_once))
            if left < sum(example):
                at_once += [(left - 2, 1, 1)] if left > 2 else []  # of shorter ones there may be more
                break
            at_once.append(example)
        tokens = sum(map(sum, at_once))
        shares = self.cfg.speed.share_prompt and self._skeleton.shares_keys
        again = self.cache_bytes(sum(map(sum, examples)) - tokens) if shares else 0
        parts = self.training(at_once, checkpointing=checkpointing, later=tokens < sum(map(sum, step)))
        return parts | {"keys seen again": again // (self._text.num_hidden_layers if checkpointing else 1)}

    def sampling(self, rows: int) -> Parts:
        """Decoding of `rows` answers, or of one prompt's if they are more, all of them as long as they may be.

        Nothing where another process does it.
        """
        kinds = self._written_here(rows) if self.cfg.engine.kind == "hf" else []
        judge = self.cfg.judge
        if judge.draws and "hf" in {engine_settings(self.cfg, role).kind for role in _JUDGING}:
            kinds.append(self._decoding(rows, self._judged, judge.max_new_tokens, judge.samples))
        if not kinds:
            return {}
        return max(kinds, key=lambda parts: sum(parts.values())) | self._unmerged

    def _written_here(self, rows: int) -> list[Parts]:
        """What decoding of each kind of text takes but a judge's."""
        sampling, longest = self.cfg.sampling, self.cfg.sampling.max_prompt_tokens
        kinds = [
            self._decoding(rows, longest, sampling.max_new_tokens, sampling.n),
            self._decoding(rows, longest, self.cfg.evaluation.max_new_tokens, 1),
        ]
        if self.cfg.generation.kind in WAYS:
            told = self._shown_to_write + MESSAGE_TOKENS
            kinds.append(self._decoding(rows, told, self.cfg.generation.max_new_tokens, 1))
        if self.cfg.rephrases:
            told = self.cfg.documents.chunk_tokens + MESSAGE_TOKENS
            kinds.append(self._decoding(rows, told, self.cfg.documents.max_new_tokens, 1))
        return kinds

    @property
    def blocked_weight_bytes(self) -> int:
        """A second copy of the weights of all linear layers, as decoding on a CPU may keep it, with an adapter."""
        vocabulary = self._text.vocab_size
        layers = [p for p in self._skeleton.parameters.values() if p.ndim == 2 and vocabulary not in p.shape]
        numbers = sum(p.numel() for p in layers) + vocabulary * self._text.hidden_size
        return (numbers + self._skeleton.adapter_parameters) * self._number_bytes

    def scoring(self, tokens: int) -> Parts:
        """One batch of `tokens` tokens in texts as long as a judge's prompt may be."""
        rows = max(tokens // self._scored, 1)
        return self.fixed | {
            "keys and values": self.cache_bytes(rows * self._scored),
            "activations": self._forward_bytes(max(tokens, self._scored), rows * self._scored**2),
            "head chunk": 2 * CHUNK_BYTES[self.kind] + self._sharpened_bytes(self._chunk_rows),
            **self._unmerged,
        }

    @property
    def _unmerged(self) -> Parts:
        """What is kept of the weights where an engine folds the adapter into them."""
        merges = any(engine.merge_adapter for engine in all_engines(self.cfg).values())
        return {"weights without adapter": self._adapted_bytes} if merges else {}

    def cache_bytes(self, tokens: int) -> int:
        """Keys and values of so many tokens."""
        heads = getattr(self._text, "num_key_value_heads", None) or self._text.num_attention_heads
        size = getattr(self._text, "head_dim", None) or self._text.hidden_size // self._text.num_attention_heads
        both = 2 * size
        if latent := getattr(self._text, "qk_head_dim", None):  # DeepSeek's, whose head_dim is that of positions alone
            both = latent + self._text.v_head_dim
        return tokens * heads * both * self._text.num_hidden_layers * self._number_bytes

    def serving(self, concurrency: int) -> Parts:
        """A server beside this process, its keys and values apart: a full step, and the logits of each request."""
        return self.fixed | {
            "activations": self._forward_bytes(SERVED_STEP, 0) + concurrency * self._text.vocab_size * 4 * 4,
            "server": int(SERVER_GIB * GIB),
        }

    @property
    def longest_served(self) -> int:
        """Tokens of the longest text that is read or written: in a duel a judge reads two answers."""
        answer = max(self.cfg.sampling.max_new_tokens, self.cfg.evaluation.max_new_tokens)
        reply = self.cfg.judge.max_new_tokens if self.cfg.judge.draws else 1
        texts = [self.cfg.sampling.max_prompt_tokens + 2 * answer + SERVED_MESSAGE_TOKENS + reply]
        if self.cfg.generation.kind in WAYS:
            texts.append(self._shown_to_write + SERVED_MESSAGE_TOKENS + self.cfg.generation.max_new_tokens)
        if self.cfg.rephrases:
            texts.append(self.cfg.documents.chunk_tokens + SERVED_MESSAGE_TOKENS + self.cfg.documents.max_new_tokens)
        if any(file.path for file in self.cfg.seed_files.values()):
            # two characters a token, of a prompt and an answer each
            texts.append(self.cfg.data.max_characters + SERVED_MESSAGE_TOKENS)
        longest = max(texts)
        return min(longest, self.longest_taken or longest)

    @property
    def longest_taken(self) -> int | None:
        """Tokens of the longest text that the model takes; None where it has no limit."""
        return getattr(self._text, "max_position_embeddings", None)

    @property
    def _shown_to_write(self) -> int:
        """Tokens of the prompts that a policy is shown before it writes another one, two a word."""
        return 2 * self.cfg.generation.examples * self.cfg.generation.most_words

    def _decoding(self, rows: int, prompt: int, new: int, answers: int) -> Parts:
        """`answers` to each prompt, side by side."""
        prompts = max(rows // answers, 1)
        rows = prompts * answers
        shares = self._skeleton.shares_keys  # a prompt's keys are there once then, and prompts are computed in batches
        at_once = min(prompts, max(self.most_scored // prompt, 1)) if shares else prompts
        prefill = self._forward_bytes(at_once * prompt, at_once * prompt * prompt)
        kept = (prompts if shares else rows) * prompt + rows * new
        # A layer's keys and values are there twice while they grow, or lose the rows that are finished.
        cache = int(self.cache_bytes(kept) * (1 + 1 / self._text.num_hidden_layers))
        step = self._step_bytes(rows, prompt + new)  # a captured one has memory of its own
        return self.fixed | {
            "keys and values": cache,
            # Prompts are done before the cache has grown.
            "activations": max(prefill - self.cache_bytes(rows * new), step) + step,
            "head chunk": self._drawing_bytes(rows),
        }

    def _step_bytes(self, rows: int, length: int) -> int:
        """The scores of a step's attention on a GPU, where they are kept; a CPU's are small."""
        scores = rows * self._text.num_attention_heads * length
        return scores * (2 * self._number_bytes + 8) if self.kind == "cuda" else 0

    def _drawing_bytes(self, rows: int) -> int:
        """The logits of a step's rows, and in float32 what is made of them: on a CPU, of a few rows at a time."""
        row = self._text.vocab_size * 4
        at_once = min(rows * row, max(FEW_BYTES, row)) if self.kind == "cpu" else rows * row
        return rows * self._text.vocab_size * self._number_bytes + 3 * at_once + self._sharpened_bytes(at_once // row)

    def _sharpened_bytes(self, rows: int) -> int:
        """The output layer's rows that are gathered to compute the highest logits in float32 (`head.sharpen_`)."""
        return 0 if self._number_bytes == 4 else rows * (SHARPENED + 1) * self._text.hidden_size * 6

    @property
    def most_scored(self) -> int:
        """The most tokens in one pass over given texts; on a CPU, more would fall out of its caches."""
        return self.cfg.memory.scoring_tokens or _SCORING_TOKENS[self.kind]

    @property
    def _judged(self) -> int:
        """Tokens of the longest prompt that a judge of one answer reads."""
        answer = max(self.cfg.sampling.max_new_tokens, self.cfg.evaluation.max_new_tokens)
        return self.cfg.sampling.max_prompt_tokens + answer + MESSAGE_TOKENS

    @property
    def _scored(self) -> int:
        """Tokens of the longest text that is scored: that prompt, or one with the two answers of a duel."""
        duel = self.cfg.sampling.max_prompt_tokens + 2 * self.cfg.evaluation.max_new_tokens + MESSAGE_TOKENS
        return max(self._judged, duel)

    @property
    def _adapted_bytes(self) -> int:
        """The weights under an adapter, of which a copy is kept while it is merged into them."""
        layers = [p for name, p in self._skeleton.parameters.items() if name.endswith("base_layer.weight")]
        return sum(p.numel() for p in layers) * self._number_bytes

    @cached_property
    def _weights(self) -> int:
        total = 0
        for name, parameter in self._skeleton.parameters.items():
            packed = self.cfg.train.quantization == "nf4" and parameter.ndim == 2 and "layers." in name
            total += int(parameter.numel() * (NF4_BYTES if packed else parameter.element_size()))
        return total

    def _forward_bytes(self, tokens: int, scores: int) -> int:
        """A layer's tensors without gradients: states in and out, the feed-forward's three, the scores of attention."""
        layer = tokens * (6 * self._text.hidden_size + 3 * self._intermediate) * self._number_bytes
        kept = scores * self._text.num_attention_heads * (2 * self._number_bytes + 4) if self.kind == "cpu" else 0
        return layer + kept

    def _estimate(self, pairs: Sequence[Lengths], *, checkpointing: bool) -> int:
        """What a layer keeps for its backward pass, roughly: sixteen states a token and four of the feed-forward's."""
        tokens = sum(map(sum, pairs))
        layer = tokens * (16 * self._text.hidden_size + 4 * self._intermediate) * self._number_bytes
        layers = self._text.num_hidden_layers
        states = layers * tokens * self._text.hidden_size * self._number_bytes
        return states + layer if checkpointing else layers * layer

    @property
    def _intermediate(self) -> int:
        return getattr(self._text, "intermediate_size", None) or 4 * self._text.hidden_size

    def _head_bytes(self, tokens: int) -> int:
        rows = min(self._chunk_rows, tokens)
        return rows * self._text.vocab_size * (4 + 2 * self._number_bytes)

    @property
    def _chunk_rows(self) -> int:
        return max(CHUNK_BYTES[self.kind] // (4 * self._text.vocab_size), 1)

    @property
    def _number_bytes(self) -> int:
        return 4 if self.cfg.model.dtype == "float32" else 2
