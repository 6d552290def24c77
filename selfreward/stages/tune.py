"""Policy 0 from what people wrote: tuned to answer as they did (IFT), and to judge as they did (EFT).

As in Self-Rewarding Language Models (arXiv 2401.10020, section 2.1), whose policy M1 this is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from selfreward.config import LoraConfig, TuningConfig
from selfreward.errors import ConfigError
from selfreward.judges.lessons import balanced, duel_lessons, score_lesson, written_lesson
from selfreward.records import Demonstration, Rating
from selfreward.stages.tools import Tools
from selfreward.store import Artifact, Identity, Metrics, Stage, Work, derive_seed
from selfreward.training.examples import Example

OPTIMISER = (
    "learning_rate",
    "schedule",
    "warmup_ratio",
    "weight_decay",
    "max_grad_norm",
    "epochs",
    "batch_size",
    "max_length",
)
"""What of `tuning` any supervised training depends on."""

LESSONS = {
    "expected": (score_lesson,),
    "sampled": (written_lesson,),
    "both": (score_lesson, written_lesson),
    "duels": (score_lesson,),
}
"""What is made of each rating; of two of one prompt, `duels` makes more."""


@dataclass(frozen=True)
class TuneIdentity(Identity):
    """How policy 0 is tuned."""

    tuning: Mapping[str, Any]
    lora: LoraConfig
    texts: tuple[str, ...]


def tune_policy(config: TuneIdentity, parents: Mapping[str, Artifact], work: Work, tools: Tools) -> Metrics:
    """Train an adapter on `parents["demonstrations"]` and `parents["ratings"]`, one or both, in one shuffled pass.

    Beside ratings an answer has a weight of its own. The gradient of a score token is several times as long as that of
    the mean over an answer's tokens: without it, ratings take nearly half of what is learned of answers.

    Raises as `tune_on` does.
    """
    tuning, chat, seed = TuningConfig(**config.tuning), tools.models.chat, work.seed
    examples: list[Example] = []
    drawn: dict[str, int] = {}
    if "demonstrations" in parents:
        people = parents["demonstrations"].read(Demonstration)
        most = len(people) if tuning.most_demonstrations is None else tuning.most_demonstrations
        answers = Random(seed).sample(people, min(len(people), most))
        weight = tuning.answer_weight if "ratings" in parents else 1.0
        examples += [Example(chat.render(one.prompt), chat.answer(one.response), weight=weight) for one in answers]
        drawn["demonstrations"] = len(answers)
    if "ratings" in parents:
        ratings = parents["ratings"].read(Rating)
        chosen = balanced(ratings, tuning.most_ratings, seed)
        examples += [lesson(rating, chat) for rating in chosen for lesson in LESSONS[tuning.verdicts]]
        if tuning.verdicts == "duels":
            examples += duel_lessons(ratings, chat, len(chosen), seed)
        drawn["ratings"] = len(chosen)
    return tune_on(examples, config.tuning, config.lora, parents, work, tools) | {"drawn": drawn}


def tune_on(
    examples: Sequence[Example],
    settings: Mapping[str, Any],
    lora: LoraConfig,
    parents: Mapping[str, Artifact],
    work: Work,
    tools: Tools,
) -> Metrics:
    """Train an adapter on examples, from that of `parents["policy"]` or a fresh one. Too long ones are counted.

    Raises `ConfigError` where every example is too long, or one is for the model, and as `session.fit` does.
    """
    from selfreward.model.lora import save_adapter  # these import torch and trl, which a finished run does without
    from selfreward.training.tuning import TuningSettings, tune

    tuning, previous = TuningConfig(**settings), tools.adapter(parents["policy"])
    fitting = [e for e in examples if len(e.prompt_ids) + len(e.completion_ids) <= tuning.max_length]
    if not fitting:
        remedy = f"each of the {len(examples)} examples is longer; raise it"
        raise ConfigError("tuning.max_length", tuning.max_length, remedy)
    takes = tools.plan.costs.longest_taken
    if takes and (longest := max(len(e.prompt_ids) + len(e.completion_ids) for e in fitting)) > takes:
        remedy = f"an example has {longest} tokens, and the model takes {takes}; lower it to that"
        raise ConfigError("tuning.max_length", tuning.max_length, remedy)
    fit = tools.plan.fit_tuning([(len(e.prompt_ids), len(e.completion_ids)) for e in fitting])
    work.planned_memory = fit.total
    how = TuningSettings(
        tuning,
        tools.memory,
        tools.speed,
        fit.micro_batch,
        tools.plan.costs.micro_batch_tokens,
        fit.gradient_checkpointing,
        tools.plan.preflight,
    )
    start = derive_seed(work.seed, *sorted(parent.id for parent in parents.values())) % 2**31
    with tools.models.trainable(previous, lora, start) as model:
        metrics = tune(model, tools.models.chat.tokenizer, fitting, how, start, work)
        if work.group.leads:
            save_adapter(model, work.folder)
    return metrics | {"too_long": len(examples) - len(fitting)}


TUNE = Stage("policies", 6, tune_policy)
INDEPENDENT_JUDGE = Stage("independent_judges", 5, tune_policy)
