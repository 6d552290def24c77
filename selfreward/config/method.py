"""What an iteration does: sample, judge, pair, train, evaluate; and how policy 0 is tuned before."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from selfreward.config.data import SeedFileConfig
from selfreward.config.ranges import choice, number
from selfreward.store.identity import Execution, Identity


@dataclass
class SamplingConfig(Identity):
    """How a policy answers prompts."""

    n: int = number(4, least=2)  # candidates for each prompt
    temperature: float = number(0.7, least=0)
    top_p: float = number(0.9, above=0, most=1)
    max_new_tokens: int = number(96, least=1)
    max_prompt_tokens: int = number(512, least=1)  # longer prompts are left out, and counted
    shard_size: int = number(16, least=1)  # prompts in one unit of work


@dataclass
class JudgeConfig(Identity):
    """Who scores candidates, and how."""

    kind: str = "rubric"  # a key of `selfreward.judges.JUDGES`
    engine: str | None = None  # a key of `engines`: an outside judge, say; None is the run's own engine
    mode: str = choice("expected", "expected", "sampled")
    samples: int = number(3, least=1)  # judgements of each candidate, for mode=sampled
    temperature: float = number(0.7, above=0)  # for mode=sampled
    top_p: float = number(0.9, above=0, most=1)  # for mode=sampled
    max_new_tokens: int = number(160, least=1)  # of the judge's own reply, for mode=sampled
    verifier_weight: float = number(0.5, least=0, most=1)  # of what code checks, for kind=ensemble
    shard_size: int = number(16, least=1)  # prompts in one unit of work

    @property
    def asks_a_model(self) -> bool:
        """Else code says what an answer is worth."""
        return self.kind not in ("length", "verifier")

    @property
    def draws(self) -> bool:
        """Whether scores are drawn, so that another seed gives others."""
        return self.asks_a_model and self.mode == "sampled"

    @property
    def in_use(self) -> dict[str, Any]:
        """The settings that judgements depend on, not what their engine is called, and of a kind that reads but some of
        them no others."""
        if not self.asks_a_model:
            return {"kind": self.kind, "shard_size": self.shard_size}
        left_out = {"engine"}
        if self.kind in ("rubric", "ensemble") and self.mode != "sampled":
            left_out |= {"samples", "temperature", "top_p", "max_new_tokens"}
        if self.kind == "rubric":
            left_out.add("verifier_weight")
        return {name: value for name, value in dataclasses.asdict(self).items() if name not in left_out}


@dataclass
class PairsConfig(Identity):
    """Which two candidates of a prompt make a preference pair."""

    kind: str = "best_worst"  # a key of `selfreward.pairing.PAIRINGS`
    margin: float = number(0.0, least=0)  # the scores must differ by more than this
    # Of candidates that reached sampling.max_new_tokens: `not_chosen` lets them be rejected alone. DPO on a chosen one
    # that was cut off, against one that ended, teaches not to end.
    cut_off: str = choice("keep", "keep", "not_chosen")


@dataclass
class LoraConfig(Identity):
    """The adapter that is trained."""

    r: int = number(16, least=1)
    alpha: int = number(32, least=1)
    dropout: float = number(0.0, least=0, most=0.9)
    target_modules: str = "all-linear"  # or names joined by commas


@dataclass
class TrainConfig(Execution):
    """How a policy learns from preference pairs."""

    loss: str = "sigmoid"  # a key of `selfreward.training.losses.LOSSES`
    beta: float = number(0.1, above=0)
    learning_rate: float = number(5e-5, above=0)
    schedule: str = choice("linear", "linear", "cosine", "constant_with_warmup")
    warmup_ratio: float = number(0.0, least=0, most=0.9)
    weight_decay: float = number(0.0, least=0)
    max_grad_norm: float = number(1.0, above=0)
    label_smoothing: float = number(0.0, least=0, most=0.5)
    epochs: int = number(1, least=1)
    batch_size: int = number(4, least=1)  # preference pairs in one optimiser step
    max_length: int = number(1024, least=2)  # tokens of a prompt and one candidate
    quantization: str = choice("none", "none", "nf4")  # of the base model's layers (bitsandbytes, on CUDA)
    reference: str = choice("previous", "previous", "policy_0")
    # Computed once, or recorded while sampling; auto: recorded where these are exact (`RunConfig.reference_logprobs`).
    reference_logprobs: str = choice("auto", "auto", "computed", "recorded")
    lora: LoraConfig = field(default_factory=LoraConfig)


@dataclass
class TuningConfig(Execution):
    """How policy 0 is tuned on what people wrote before the loop begins. Without files it is the base model."""

    demonstrations: SeedFileConfig = field(default_factory=SeedFileConfig)  # answers to learn from (IFT)
    ratings: SeedFileConfig = field(default_factory=SeedFileConfig)  # scores of answers to learn to judge by (EFT)
    most_demonstrations: int | None = number(None, least=0)  # None: all; 0: none, but held-out ones still measure
    most_ratings: int | None = number(None, least=0)  # balanced over scores; None: as many as can be
    answer_weight: float = number(4.0, above=0)  # of an answer in the loss beside a score, where both are learned
    # The judge's modes that are taught; auto: that of judge.mode; duels: expected, and which of two answers is better.
    verdicts: str = choice("auto", "auto", "expected", "sampled", "both", "duels")
    learning_rate: float = number(2e-4, above=0)
    schedule: str = choice("linear", "linear", "cosine", "constant_with_warmup")
    warmup_ratio: float = number(0.1, least=0, most=0.9)
    weight_decay: float = number(0.0, least=0)
    max_grad_norm: float = number(1.0, above=0)
    epochs: int = number(1, least=1)
    batch_size: int = number(8, least=1)  # examples in one optimiser step
    max_length: int = number(1024, least=2)  # tokens of an example; longer ones are left out, and counted

    @property
    def learned(self) -> dict[str, SeedFileConfig]:
        """The files that policy 0 learns from."""
        files = {
            "demonstrations": (self.demonstrations, self.most_demonstrations),
            "ratings": (self.ratings, self.most_ratings),
        }
        return {name: file for name, (file, most) in files.items() if file.path and most != 0}

    @property
    def in_use(self) -> dict[str, Any]:
        """The settings that the tuned policy depends on; the files have an identity of their own."""
        left_out = {"demonstrations", "ratings"}
        if "ratings" not in self.learned:
            left_out |= {"verdicts", "most_ratings"}
        if "demonstrations" not in self.learned:
            left_out.add("most_demonstrations")
        if len(self.learned) < 2:
            left_out.add("answer_weight")
        return {name: value for name, value in dataclasses.asdict(self).items() if name not in left_out}


@dataclass
class EvaluationConfig(Identity):
    """How a policy is held against policy 0 on held-out prompts. One judge for all, so that iterations compare."""

    engine: str | None = None  # a key of `engines`: an outside judge, say; None: `judge` judges, on the run's own
    judge: str = choice("policy_0", "policy_0", "independent")  # the latter is tuned on tuning.ratings.held_out alone
    temperature: float = number(0.7, least=0)
    top_p: float = number(0.9, above=0, most=1)
    max_new_tokens: int = number(96, least=1)
    bootstrap_samples: int = number(2000, least=100)
    confidence: float = number(0.95, above=0, most=0.999)
