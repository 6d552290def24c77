"""What it runs on: the model, engines, memory, processes; and where what comes of it is shown."""

from __future__ import annotations

from dataclasses import dataclass

from omegaconf import MISSING

from selfreward.config.ranges import choice, number
from selfreward.store.identity import Execution


@dataclass
class ModelConfig(Execution):
    """Where the base model is and how it is loaded. What it *is*, its files' bytes and dtype, is `ModelIdentity`."""

    name: str = MISSING  # `pypi:<package>`, a hub name, or a local folder
    revision: str | None = None  # a hub branch, tag or commit
    dtype: str = choice("bfloat16", "bfloat16", "float16", "float32")


@dataclass
class EngineConfig(Execution):
    """What samples and scores."""

    kind: str = "hf"  # a key of `selfreward.engines.ENGINES`
    tokenizer: str | None = None  # folder or hub name, of an engine that runs another model than this run's
    device: str = choice("auto", "auto", "cpu", "cuda", "mps")
    merge_adapter: bool = False  # fold the adapter into the weights while sampling: faster, and inexact
    base_url: str | None = None  # the server's address, which ends in /v1, for kind=server
    model: str | None = None  # what the server calls the base model, for kind=server; None: the first that it lists
    key_variable: str = "OPENAI_API_KEY"  # the environment variable that holds the server's key, for kind=server
    python: str | None = None  # the interpreter of the environment that has vLLM, for kind=vllm
    start_seconds: float = number(1800.0, above=0)  # how long the server may take to be ready, for kind=vllm
    seeded: bool = True  # send each answer's seed; false for servers that can't take one: then chance is not repeatable
    concurrency: int = number(64, least=1)  # requests under way at once, for kind=server and vllm
    timeout_seconds: float = number(600.0, above=0)  # how long a request may take, for kind=server and vllm
    retries: int = number(6, least=0)  # further attempts at a request that failed, with growing pauses
    parity_limit: float | None = number(None, above=0)  # mean nats a token off training; None: by dtype and rounding

    @property
    def is_outside(self) -> bool:
        """Whether it runs a model of its own, which no policy's adapter fits."""
        return self.tokenizer is not None


@dataclass
class MemoryConfig(Execution):
    """How much memory a run may take, and how its work is cut to fit."""

    cap_gb: float = number(64.0, above=0)  # GPU memory, in GiB
    ram_gb: float | None = number(None, above=0)  # main memory this process may hold, in GiB; None is what there is
    micro_batch: int | None = number(None, least=1)  # pairs, or at most so many examples, in a pass; None: as fits
    gradient_checkpointing: bool | None = None  # None: where it is needed to fit
    sampling_rows: int | None = number(None, least=1)  # candidates decoded side by side; None: 64 on a CPU, else 1,024
    scoring_tokens: int | None = number(None, least=1)  # in one scoring batch; None: 2,048 on a CPU, else 32,768
    checkpoint_seconds: float = number(30.0, least=0)  # at most this much training is lost to a kill


@dataclass
class SpeedConfig(Execution):
    """Shorter ways to the same numbers, exact to rounding. Switch one off to compare."""

    completion_head: bool = True  # training scores completion tokens alone, and keeps no logits
    share_prompt: bool = True  # training packs texts into one row, what they share once; DPO needs completion_head
    fused_adapter: bool = True  # training computes an adapter in the model's dtype, without peft's casts
    blocked_weights: bool = True  # a CPU decodes with a second copy of the weights, laid out for it, where that fits
    cuda_graphs: bool = True  # a GPU captures a step of decoding and replays it, without Python between its kernels


@dataclass
class TrackingConfig(Execution):
    """What is shown, and where."""

    wandb: str = choice("auto", "auto", "online", "offline", "disabled")
    project: str | None = None  # of W&B; None: WANDB_PROJECT, or selfreward
    report: bool = True
    examples: int = number(8, least=1)  # prompts of each iteration shown in the report and in W&B


@dataclass
class LaunchConfig(Execution):
    """How many processes a run is spread over, and what starts them."""

    kind: str = choice("single", "single", "accelerate")
    processes: int | None = number(None, least=1)  # for kind=accelerate; None: config_file's, else one for each GPU
    config_file: str | None = None  # of `accelerate config`, for kind=accelerate
