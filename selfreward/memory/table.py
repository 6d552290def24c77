"""A memory plan as a table: what each phase takes, in GiB, and what is left of the limit."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.table import Table

from selfreward.cap import GIB
from selfreward.memory.plan import Plan, TrainingFit


def plan_table(plan: Plan) -> Table:
    """The plan for the longest texts that the settings allow."""
    training, tuning = plan.fit_training(plan.costs.longest_batch), plan.fit_longest_examples()
    phases = {
        "tuning": tuning.parts if tuning else {},
        "training": training.parts,
        "sampling": plan.sampling,
        "scoring": plan.costs.scoring(plan.scoring_tokens),
    }
    phases = {phase: parts for phase, parts in phases.items() if parts}  # what nobody does here has none
    caption = (
        (f"tuning: {_cut(tuning)}\n" if tuning else "")
        + f"training: {_cut(training)}\n"
        + (f"sampling: {plan.sampling_rows} rows\n" if "sampling" in phases else "")
        + f"scoring: {plan.scoring_tokens:,} tokens"
    )
    title = "memory plan, GiB" + (" (training is estimated, not traced)" if plan.costs.is_estimate else "")
    table = Table(title=title, caption=caption, box=SIMPLE_HEAD, pad_edge=False)
    table.title_justify = table.caption_justify = "left"
    table.add_column("")
    for phase in phases:
        table.add_column(phase, justify="right")
    for part in dict.fromkeys(name for parts in phases.values() for name in parts):
        table.add_row(part, *(f"{parts[part] / GIB:.2f}" if part in parts else "" for parts in phases.values()))
    table.add_section()
    table.add_row("sum", *(f"{sum(parts.values()) / GIB:.2f}" for parts in phases.values()), style="bold")
    table.add_row(plan.limit_name, *[f"{plan.limit_gb:.2f}"] * len(phases))
    return table


def _cut(fit: TrainingFit) -> str:
    checkpointing = "with" if fit.gradient_checkpointing else "without"
    return f"micro-batches of {fit.micro_batch}, {checkpointing} checkpointing"
