"""Loss presets: the names that `train.loss` takes, what they are in trl, and the papers. A preset is one line here."""

from __future__ import annotations

from dataclasses import dataclass

from selfreward.config import MemoryConfig, TrainConfig
from selfreward.errors import ConfigError


@dataclass(frozen=True)
class Loss:
    """A sum of trl's losses.

    `label_smoothing` says whether it takes one, and whether it needs one above 0. `couples_pairs` says that a pair's
    loss depends on the pairs beside it, so that a batch can't be cut into micro-batches.
    """

    terms: tuple[str, ...]
    weights: tuple[float, ...] = (1.0,)
    label_smoothing: str = "unused"  # unused, optional, required
    couples_pairs: bool = False


LOSSES: dict[str, Loss] = {
    "sigmoid": Loss(("sigmoid",)),  # DPO, arXiv 2305.18290, equation 7
    "sigmoid_norm": Loss(("sigmoid_norm",)),  # DPO by the token, as in Tulu 3: 2411.15124, with beta 5
    "hinge": Loss(("hinge",)),  # RSO: 2309.06657, after SLiC: 2305.10425
    "ipo": Loss(("ipo",)),  # IPO: 2310.12036, equation 17, by the token
    "robust": Loss(("robust",), label_smoothing="optional"),  # robust DPO: 2403.00409
    "exo_pair": Loss(("exo_pair",), label_smoothing="required"),  # EXO: 2402.00856, equation 16
    "nca_pair": Loss(("nca_pair",)),  # NCA: 2402.05369
    "bco_pair": Loss(("bco_pair",)),  # BCO: 2404.04656, without its shift of rewards
    "sppo_hard": Loss(("sppo_hard",)),  # SPPO: 2405.00675, equation 4.7, the winner's probability taken as 1; beta 1e-3
    "aot": Loss(("aot",), label_smoothing="optional", couples_pairs=True),  # AOT: 2406.05882
    "aot_unpaired": Loss(("aot_unpaired",), label_smoothing="optional", couples_pairs=True),  # likewise
    "apo_zero": Loss(("apo_zero",)),  # APO: 2408.06266, equation 7
    "apo_down": Loss(("apo_down",)),  # APO, equation 8
    "discopop": Loss(("discopop",)),  # DiscoPOP: 2406.08414, equation 5
    "sigmoid_sft": Loss(
        ("sigmoid", "sft"), (1.0, 1.0), couples_pairs=True
    ),  # and likelihood: 2404.19733, but by the batch's tokens
}

STARTS_AT_LN_2 = {"sigmoid", "sigmoid_norm"}
"""Losses whose value is ln 2 where the policy equals its reference."""


def check_spread(train: TrainConfig, processes: int | None) -> None:
    """Raise `ConfigError` for a loss whose batch can't be divided among processes."""
    if LOSSES[train.loss].couples_pairs and processes != 1:
        spread = "several processes" if processes is None else f"launch.processes={processes}"
        remedy = f"it compares the pairs of a batch, which {spread} would divide; use launch=single, or another loss"
        raise ConfigError("train.loss", train.loss, remedy)


def check_loss(train: TrainConfig, memory: MemoryConfig) -> None:
    """Raise `ConfigError` for a loss and a label smoothing, or a loss and a micro-batch, that don't go together."""
    if LOSSES[train.loss].couples_pairs and memory.micro_batch not in (None, train.batch_size):
        remedy = f"train.loss={train.loss} compares the pairs of a batch; use {train.batch_size}"
        raise ConfigError("memory.micro_batch", memory.micro_batch, remedy)
    use = LOSSES[train.loss].label_smoothing
    if use == "unused" and train.label_smoothing:
        remedy = f"train.loss={train.loss} ignores it; use 0, or train.loss=robust"
        raise ConfigError("train.label_smoothing", train.label_smoothing, remedy)
    if train.loss == "robust" and train.label_smoothing == 0.5:
        raise ConfigError(
            "train.label_smoothing", 0.5, "train.loss=robust divides by 1 less twice it; use less than 0.5"
        )
    if use == "required" and not train.label_smoothing:
        raise ConfigError("train.label_smoothing", 0, f"train.loss={train.loss} needs one above 0; use 1e-3")
