"""The memory plan of a run, from its model's configuration alone: no weights, no GPU.

`python -m selfreward.memory model=llama3-8b train.max_length=2048`; `engine.device=cpu` for a run without a GPU.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from selfreward.cap import GIB
from selfreward.compose import compose_run
from selfreward.config import RunConfig
from selfreward.errors import ConfigError
from selfreward.explain import MENDABLE, exit_code, explain
from selfreward.kinds import check_settings
from selfreward.memory.plan import Plan
from selfreward.memory.shapes import model_config
from selfreward.memory.table import plan_table

CARDS_GB = (24, 48, 64, 80)


def main() -> None:
    """Print the plan for these settings on this machine, and what would fit on cards of several sizes."""
    parser = argparse.ArgumentParser(prog="python -m selfreward.memory", description=__doc__)
    parser.add_argument("settings", nargs="*", metavar="key=value", help="settings, as a run takes them")
    settings = parser.parse_args().settings
    warnings.filterwarnings("ignore", module="transformers|peft|torch")
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 110)
    try:
        cfg = compose_run(["engine.device=cuda", *settings])
        check_settings(cfg)
        config = model_config(cfg.model.name, cfg.model.revision)
        console.print(f"{cfg.model.name}, {cfg.model.dtype}" + (", nf4" if cfg.train.quantization == "nf4" else ""))
        plan = Plan(config, cfg, "cuda" if cfg.engine.device == "auto" else cfg.engine.device)
        if cfg.engine.device in ("auto", "cuda"):
            console.print(gpus_table(config, cfg, plan))
        plan.check()
        console.print(plan_table(plan))
    except MENDABLE as error:
        print(f"error: {explain(error)}", file=sys.stderr)  # noqa: T201
        sys.exit(exit_code(error))


def gpus_table(config: Any, cfg: RunConfig, like: Plan) -> Table:
    """For cards of several sizes, how the work would be cut, or what it would take to fit."""
    table = Table(title="what fits, CUDA", title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for name in ("GiB", "micro-batch", "checkpointing", "training", "sampling rows", "scoring tokens"):
        table.add_column(name, justify="right")
    for size in CARDS_GB:
        plan = Plan(config, cfg, "cuda", limit_gb=size, like=like)
        try:
            plan.check()
            fit = plan.fit_training(plan.costs.longest_batch)
            checkpointing = "yes" if fit.gradient_checkpointing else "no"
            training = [str(fit.micro_batch), checkpointing, f"{fit.total / GIB:.1f}"]
            table.add_row(str(size), *training, str(plan.sampling_rows), f"{plan.scoring_tokens:,}")
        except ConfigError as error:
            table.add_row(str(size), "none", "", error.remedy)
    return table


if __name__ == "__main__":
    main()
