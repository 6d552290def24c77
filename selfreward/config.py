"""The typed schema of a run. Its defaults are the vetted ones; Hydra composes it from `conf/`; `validation` checks it.

`Identity` groups go into artifact ids whole. Of `Execution` groups those settings do that a stage copies into its own
identity, mostly in `stages/settings.py`; the rest changes only how things are made.
This file imports no torch, so a mistake is reported before anything loads.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from selfreward.store.identity import Execution, Identity


def _number(default: Any, *, above: float | None = None, least: float | None = None, most: float | None = None) -> Any:
    """A numeric setting and the range it must lie in: `above` is exclusive, `least` and `most` inclusive."""
    return field(default=default, metadata={"above": above, "least": least, "most": most})


def _choice(default: str, *choices: str) -> Any:
    """A setting that takes one of a few words."""
    return field(default=default, metadata={"choices": choices})


@dataclass
class ModelConfig(Execution):
    """Where the base model is and how it is loaded. What it *is*, its files' bytes and dtype, is `ModelIdentity`."""

    name: str = MISSING  # `pypi:<package>`, a hub name, or a local folder
    revision: str | None = None  # a hub branch, tag or commit
    dtype: str = _choice("bfloat16", "bfloat16", "float16", "float32")


@dataclass
class PromptsConfig(Execution):
    """Where prompts come from, and how many each iteration takes."""

    kind: str = MISSING  # a key of `selfreward.sources.SOURCES`
    path: str | None = None  # the file, for kind=file
    name: str | None = None  # the `datasets` name, for kind=dataset
    subset: str | None = None  # its configuration, for kind=dataset; None: it has but one
    revision: str | None = None  # its commit, for kind=dataset
    split: str = "train"  # its split, for kind=dataset
    prompt_column: str = "prompt"
    category_column: str | None = None  # pass rates are shown by it where answers can be checked
    answer_column: str | None = None  # the right answer, or a solution that ends in "#### <answer>"
    held_out_column: str | None = None  # a column that says "held_out" for prompts kept for evaluation
    per_iteration: int = _number(16, least=1)
    held_out: int = _number(24, least=1)  # prompts kept for evaluation, never trained on
    most_constraints: int = _number(2, least=1)  # on one answer, for kind=constraints
    unseen_kinds: str = ""  # kinds of constraints, joined by commas, that half of the held-out prompts alone have
    tasks: str = ""  # of reasoning-gym, joined by commas, for kind=reasoning
    level: int = _number(0, least=0)  # of difficulty of reasoning-gym's tasks; 0 is the easiest


@dataclass
class DataConfig(Execution):
    """What is done about rows of data files that can't be used."""

    on_error: str = _choice("raise", "raise", "skip")  # stop and name the row, or count such rows and go on
    max_characters: int = _number(20_000, least=1)  # of a prompt or an answer; longer ones are left out, and counted


@dataclass
class SeedFileConfig(Execution):
    """A file of what people wrote, and how it is read."""

    path: str | None = None  # .jsonl, .jsonl.gz or .parquet; None: there is none
    format: str = "columns"  # a key of `selfreward.seeds.formats.FORMATS`
    prompt_column: str = "prompt"  # text, or the messages so far, each with role and content
    response_column: str = "response"
    score_column: str = "score"
    responses_column: str = "responses"  # the answers to a prompt, for format=groups
    lowest_score: float = 0.0
    highest_score: float = 5.0
    held_out: int = _number(0, least=0)  # prompts kept apart: to measure by, or for evaluation.judge=independent


@dataclass
class GenerationConfig(Execution):
    """How a policy writes new prompts, which are then asked in place of the source's own."""

    kind: str = "none"  # none, documents, or a key of `selfreward.generation.WAYS`
    writer: str = _choice("current", "current", "policy_0")  # the policy of the iteration, or policy 0
    proposals: int = _number(64, least=1)  # written in one round
    rounds: int = _number(20, least=1)  # of one iteration at most; the run stops if they keep too few
    examples: int = _number(8, least=1)  # prompts that are shown, for self_instruct
    generated_share: float = _number(0.25, least=0, most=1)  # of what is shown: prompts that were made before
    operations: str = "paraphrase,constrain,deepen,broaden"  # joined by commas, for evolve
    temperature: float = _number(0.8, above=0)
    top_p: float = _number(0.9, above=0, most=1)
    max_new_tokens: int = _number(96, least=1)
    most_rouge: float = _number(0.7, above=0, most=1)  # ROUGE-L with any other prompt; above, it is left out
    resemblance: float = _number(0.7, above=0, most=1)  # share of word triples that makes a near duplicate
    least_words: int = _number(4, least=1)
    most_words: int = _number(120, least=1)
    keywords: str = "image,images,picture,pictures,photo,graph,plot,video,audio,file,attached,link,website,draw"
    language: str | None = "en"  # ISO 639-1; None: any


@dataclass
class DocumentsConfig(Execution):
    """Documents for continued pretraining of policy 0, before tuning and the loop; the optimiser is `tuning`'s."""

    path: str | None = None  # a folder of .txt and .md files, or a .jsonl or .parquet; None: there are none
    text_column: str = "text"
    chunk_tokens: int = _number(300, least=16)
    held_out: int = _number(32, least=1)  # documents to measure perplexity on
    styles: str = "easy,medium,hard,question_answer"  # joined by commas; each chunk is rephrased in one of them
    rephrased_share: float = _number(0.5, least=0, most=1)  # of the tokens that are learned from
    most_tokens: int | None = _number(None, least=0)  # in one of tuning.epochs; 0: none; None: twice the real ones
    temperature: float = _number(0.7, above=0)
    top_p: float = _number(0.9, above=0, most=1)
    max_new_tokens: int = _number(384, least=1)


@dataclass
class GateConfig(Execution):
    """What prompts must pass before a policy learns from them. `contamination` and `personal` also apply to people's
    answers and ratings, and to documents."""

    contamination: str = _choice("raise", "raise", "drop", "ignore")  # of prompts that an evaluation holds too
    run_of_words: int = _number(13, least=3)  # in common with an evaluation that make a leak; a Chinese letter is half
    resemblance: float = _number(0.8, above=0, most=1)  # share of word triples that makes a leak, or a near duplicate
    near_duplicates: str = _choice("drop", "drop", "ignore")
    personal: str = _choice("redact", "redact", "drop", "ignore")  # e-mail, phone, card and postal address
    language: str | None = None  # ISO 639-1: others are left out; None: any
    embedding_model: str | None = None  # a folder or hub name; measures how far prompts are apart


@dataclass
class SamplingConfig(Identity):
    """How a policy answers prompts."""

    n: int = _number(4, least=2)  # candidates for each prompt
    temperature: float = _number(0.7, least=0)
    top_p: float = _number(0.9, above=0, most=1)
    max_new_tokens: int = _number(96, least=1)
    max_prompt_tokens: int = _number(512, least=1)  # longer prompts are left out, and counted
    shard_size: int = _number(16, least=1)  # prompts in one unit of work


@dataclass
class JudgeConfig(Identity):
    """Who scores candidates, and how."""

    kind: str = "rubric"  # a key of `selfreward.judges.JUDGES`
    engine: str | None = None  # a key of `engines`: an outside judge, say; None is the run's own engine
    mode: str = _choice("expected", "expected", "sampled")
    samples: int = _number(3, least=1)  # judgements of each candidate, for mode=sampled
    temperature: float = _number(0.7, above=0)  # for mode=sampled
    top_p: float = _number(0.9, above=0, most=1)  # for mode=sampled
    max_new_tokens: int = _number(160, least=1)  # of the judge's own reply, for mode=sampled
    verifier_weight: float = _number(0.5, least=0, most=1)  # of what code checks, for kind=ensemble
    shard_size: int = _number(16, least=1)  # prompts in one unit of work

    @property
    def in_use(self) -> dict[str, Any]:
        """The settings that judgements depend on: none of another mode or kind, and not what their engine is called."""
        left_out = {"engine"}
        if self.mode != "sampled":
            left_out |= {"samples", "temperature", "top_p", "max_new_tokens"}
        if self.kind != "ensemble":
            left_out.add("verifier_weight")
        return {name: value for name, value in dataclasses.asdict(self).items() if name not in left_out}


@dataclass
class PairsConfig(Identity):
    """Which two candidates of a prompt make a preference pair."""

    kind: str = "best_worst"  # a key of `selfreward.pairing.PAIRINGS`
    margin: float = _number(0.0, least=0)  # the scores must differ by more than this


@dataclass
class LoraConfig(Identity):
    """The adapter that is trained."""

    r: int = _number(16, least=1)
    alpha: int = _number(32, least=1)
    dropout: float = _number(0.0, least=0, most=0.9)
    target_modules: str = "all-linear"  # or names joined by commas


@dataclass
class TrainConfig(Execution):
    """How a policy learns from preference pairs."""

    loss: str = "sigmoid"  # a key of `selfreward.training.losses.LOSSES`
    beta: float = _number(0.1, above=0)
    learning_rate: float = _number(5e-5, above=0)
    schedule: str = _choice("linear", "linear", "cosine", "constant_with_warmup")
    warmup_ratio: float = _number(0.0, least=0, most=0.9)
    weight_decay: float = _number(0.0, least=0)
    max_grad_norm: float = _number(1.0, above=0)
    label_smoothing: float = _number(0.0, least=0, most=0.5)
    epochs: int = _number(1, least=1)
    batch_size: int = _number(4, least=1)  # preference pairs in one optimiser step
    max_length: int = _number(1024, least=2)  # tokens of a prompt and one candidate
    quantization: str = _choice("none", "none", "nf4")  # of the base model's layers (bitsandbytes, on CUDA)
    reference: str = _choice("previous", "previous", "policy_0")
    # Computed once, or recorded while sampling; auto: recorded where these are exact (`RunConfig.reference_logprobs`).
    reference_logprobs: str = _choice("auto", "auto", "computed", "recorded")
    lora: LoraConfig = field(default_factory=LoraConfig)


@dataclass
class TuningConfig(Execution):
    """How policy 0 is tuned on what people wrote before the loop begins. Without files it is the base model."""

    demonstrations: SeedFileConfig = field(default_factory=SeedFileConfig)  # answers to learn from (IFT)
    ratings: SeedFileConfig = field(default_factory=SeedFileConfig)  # scores of answers to learn to judge by (EFT)
    most_demonstrations: int | None = _number(None, least=0)  # None: all; 0: none, but held-out ones still measure
    most_ratings: int | None = _number(None, least=0)  # balanced over scores; None: as many as can be
    answer_weight: float = _number(4.0, above=0)  # of an answer in the loss beside a score, where both are learned
    # The judge's modes that are taught; auto: that of judge.mode; duels: expected, and which of two answers is better.
    verdicts: str = _choice("auto", "auto", "expected", "sampled", "both", "duels")
    learning_rate: float = _number(2e-4, above=0)
    schedule: str = _choice("linear", "linear", "cosine", "constant_with_warmup")
    warmup_ratio: float = _number(0.1, least=0, most=0.9)
    weight_decay: float = _number(0.0, least=0)
    max_grad_norm: float = _number(1.0, above=0)
    epochs: int = _number(1, least=1)
    batch_size: int = _number(8, least=1)  # examples in one optimiser step
    max_length: int = _number(1024, least=2)  # tokens of an example; longer ones are left out, and counted

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

    engine: str | None = None  # a key of `engines`: an outside grader, say; None: `judge` judges, on the run's own
    judge: str = _choice("policy_0", "policy_0", "independent")  # the latter is tuned on tuning.ratings.held_out alone
    temperature: float = _number(0.7, least=0)
    top_p: float = _number(0.9, above=0, most=1)
    max_new_tokens: int = _number(96, least=1)
    bootstrap_samples: int = _number(2000, least=100)
    confidence: float = _number(0.95, above=0, most=0.999)


@dataclass
class EngineConfig(Execution):
    """What samples and scores."""

    kind: str = "hf"  # a key of `selfreward.engines.ENGINES`
    tokenizer: str | None = None  # folder or hub name, of an engine that runs another model than this run's
    device: str = _choice("auto", "auto", "cpu", "cuda", "mps")
    merge_adapter: bool = False  # fold the adapter into the weights while sampling: faster, and inexact
    base_url: str | None = None  # the server's address, which ends in /v1, for kind=server
    model: str | None = None  # what the server calls the base model, for kind=server; None: the first that it lists
    key_variable: str = "OPENAI_API_KEY"  # the environment variable that holds the server's key, for kind=server
    python: str | None = None  # the interpreter of the environment that has vLLM, for kind=vllm
    start_seconds: float = _number(1800.0, above=0)  # how long the server may take to be ready, for kind=vllm
    seeded: bool = True  # send each answer's seed; false for servers that can't take one: then chance is not repeatable
    concurrency: int = _number(64, least=1)  # requests under way at once, for kind=server and vllm
    timeout_seconds: float = _number(600.0, above=0)  # how long a request may take, for kind=server and vllm
    retries: int = _number(6, least=0)  # further attempts at a request that failed, with growing pauses
    parity_limit: float | None = _number(None, above=0)  # mean nats a token off training; None: by dtype and rounding

    @property
    def is_outside(self) -> bool:
        """Whether it runs a model of its own, which no policy's adapter fits."""
        return self.tokenizer is not None


@dataclass
class MemoryConfig(Execution):
    """How much memory a run may take, and how its work is cut to fit."""

    cap_gb: float = _number(64.0, above=0)  # GPU memory, in GiB
    ram_gb: float | None = _number(None, above=0)  # main memory this process may hold, in GiB; None is what there is
    micro_batch: int | None = _number(None, least=1)  # pairs, or at most so many examples, in a pass; None: as fits
    gradient_checkpointing: bool | None = None  # None: where it is needed to fit
    sampling_rows: int | None = _number(None, least=1)  # candidates decoded side by side; None: 64 on a CPU, else 1,024
    scoring_tokens: int | None = _number(None, least=1)  # in one scoring batch; None: 2,048 on a CPU, else 32,768
    checkpoint_seconds: float = _number(30.0, least=0)  # at most this much training is lost to a kill


@dataclass
class SpeedConfig(Execution):
    """Shorter ways to the same numbers, exact to rounding. Switch one off to compare."""

    completion_head: bool = True  # training scores completion tokens alone, and keeps no logits
    share_prompt: bool = True  # training packs texts into one row, what they share once; DPO needs completion_head
    fused_adapter: bool = True  # training computes an adapter in the model's dtype, without peft's casts
    blocked_weights: bool = True  # a CPU decodes with a second copy of the weights, laid out for it, where that fits
    cuda_graphs: bool = True  # a GPU records a step of decoding and replays it, without Python between its kernels


@dataclass
class TrackingConfig(Execution):
    """What is shown, and where."""

    wandb: str = _choice("auto", "auto", "online", "offline", "disabled")
    project: str = "selfreward"
    report: bool = True
    examples: int = _number(8, least=1)  # prompts of each iteration shown in the report and in W&B


@dataclass
class LaunchConfig(Execution):
    """How many processes a run is spread over, and what starts them."""

    kind: str = _choice("single", "single", "accelerate")
    processes: int | None = _number(None, least=1)  # for kind=accelerate; None: config_file's, else one for each GPU
    config_file: str | None = None  # of `accelerate config`, for kind=accelerate


@dataclass
class RunConfig(Execution):
    """A whole run: `python -m selfreward.run iteration=3` makes policy 3 exist."""

    iteration: int = _number(3, least=0)  # the policy to make; 0 is the base model, or what it is tuned to
    seed: int = _number(0, least=0, most=2**31 - 1)
    name: str = "default"  # an experiment sets its own
    output_dir: str = "outputs/${name}"
    artifacts_dir: str | None = None  # by default `artifacts` beside `output_dir`
    model: ModelConfig = field(default_factory=ModelConfig)
    prompts: PromptsConfig = field(default_factory=PromptsConfig)
    documents: DocumentsConfig = field(default_factory=DocumentsConfig)
    generation: GenerationConfig = field(default_factory=GenerationConfig)
    gate: GateConfig = field(default_factory=GateConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    pairs: PairsConfig = field(default_factory=PairsConfig)
    data: DataConfig = field(default_factory=DataConfig)
    tuning: TuningConfig = field(default_factory=TuningConfig)
    people: SeedFileConfig = field(default_factory=SeedFileConfig)  # answers they rated, to hold the judge against
    train: TrainConfig = field(default_factory=TrainConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    engines: dict[str, EngineConfig] = field(default_factory=dict)  # further ones, for judge.engine, evaluation.engine
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    speed: SpeedConfig = field(default_factory=SpeedConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    launch: LaunchConfig = field(default_factory=LaunchConfig)

    @property
    def tunes(self) -> bool:
        """Whether there is supervised training before the loop."""
        reads = self.documents.path is not None and self.documents.most_tokens != 0
        return reads or bool(self.tuning.learned) or self.evaluation.judge == "independent"

    @property
    def rated(self) -> str | None:
        """The key of the file of people's ratings that a judge is held against; None where there is none."""
        if self.people.path:
            return "people"
        kept = self.tuning.ratings.held_out and self.evaluation.judge != "independent"
        return "tuning.ratings" if kept else None

    @property
    def verdicts(self) -> str:
        """The judge's modes that are taught where `tuning` says auto: the one in which it will be asked."""
        return self.judge.mode if self.tuning.verdicts == "auto" else self.tuning.verdicts

    def reference_logprobs(self, *, sampled: bool) -> str:
        """Where `train` says auto: recorded, if in float32 this process `sampled` from the policy that is the
        reference, for then they equal computed ones to rounding; else computed."""
        if self.train.reference_logprobs != "auto":
            return self.train.reference_logprobs
        exact = self.model.dtype == "float32" and self.engine.kind == "hf" and not self.engine.merge_adapter
        return "recorded" if exact and sampled else "computed"


def artifacts_dir(cfg: RunConfig) -> Path:
    """The folder of the artifacts that runs share."""
    return Path(cfg.artifacts_dir) if cfg.artifacts_dir else Path(cfg.output_dir).parent / "artifacts"


def schema_key(key: str) -> str:
    """The key in the schema: a further engine has the settings that the run's own has."""
    return re.sub(r"^engines\.[^.]+\.", "engine.", key)
