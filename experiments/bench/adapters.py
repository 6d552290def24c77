"""Adapters to sample and to judge with. They are made once and kept with the other artifacts of the benchmarks."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from selfreward.config import LoraConfig
from selfreward.judges.lessons import REASONS
from selfreward.judges.rubric import build_message
from selfreward.model.adapters import WEIGHTS_FILE, Adapter
from selfreward.model.lora import save_adapter
from selfreward.model.models import Models
from selfreward.records import Candidate

GRADED = Path("../shared/data/eft_oasst2_quality.jsonl")
FOLDER = Path("outputs/bench/adapters")


def policy(models: Models) -> Adapter:
    """An adapter that changes the model a little, as one iteration of training does."""
    folder = FOLDER / "policy"
    if not (folder / WEIGHTS_FILE).exists():
        folder.mkdir(parents=True, exist_ok=True)
        with models.trainable(None, LoraConfig(), 0) as model:
            torch.manual_seed(1)
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.data.normal_(0, 0.005)
            save_adapter(model, folder)
    return Adapter("bench-policy", folder)


def grader(models: Models) -> Adapter:
    """An adapter that writes verdicts which can be read: the small model as it is writes hardly any.

    It is tuned for some minutes on replies that people graded, with two sentences a grade, and on ordinary answers.
    """
    folder = FOLDER / "grader"
    if not (folder / WEIGHTS_FILE).exists():
        folder.mkdir(parents=True, exist_ok=True)
        with models.trainable(None, LoraConfig(), 0) as model:
            _tune(model, _examples(models))
            save_adapter(model, folder)
    return Adapter("bench-grader", folder)


def _examples(models: Models, count: int = 96) -> list[tuple[list[int], list[int]]]:
    """Token ids of prompts and replies: verdicts, as many of each grade, and half as many ordinary answers."""
    by_grade: dict[int, list[tuple[list[int], list[int]]]] = {grade: [] for grade in range(len(REASONS))}
    answers: list[tuple[list[int], list[int]]] = []
    chat, end = models.chat, models.chat.end_ids[0]

    def spell(text: str) -> list[int]:
        return chat.tokenizer(text, add_special_tokens=False)["input_ids"]

    for line in GRADED.read_text().splitlines():
        row = json.loads(line)
        for response in row["responses"]:
            grade = round(response["quality"] * (len(REASONS) - 1))
            candidate = Candidate("", row["prompt"], 0, response["text"], [], [], [], True)
            asked = chat.render(build_message(candidate, "sampled"))
            if len(asked) <= 448:
                by_grade[grade].append((asked, [*spell(f"{REASONS[grade]}\nScore: {grade}"), end]))
        best = max(row["responses"], key=lambda response: response["quality"])
        answers.append((chat.render(row["prompt"])[-256:], [*spell(best["text"]), end][:96]))
    each = count // len(REASONS)
    return [example for examples in by_grade.values() for example in examples[:each]] + answers[: count // 2]


def _tune(model: torch.nn.Module, examples: list[tuple[list[int], list[int]]]) -> None:
    """One pass of cross-entropy on the replies, in steps of four examples."""
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-4)
    order = torch.randperm(len(examples), generator=torch.Generator().manual_seed(0)).tolist()
    model.train()
    for place, index in enumerate(order, start=1):
        asked, reply = examples[index]
        labels = torch.tensor([[-100] * len(asked) + reply])
        model(input_ids=torch.tensor([asked + reply]), labels=labels).loss.backward()
        if place % 4 == 0:
            optimiser.step()
            optimiser.zero_grad()
