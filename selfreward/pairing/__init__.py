"""Which two candidates of a prompt make a preference pair. A rule is one file and one line here."""

from selfreward.pairing import best_worst
from selfreward.pairing.base import Pairing

PAIRINGS: dict[str, Pairing] = {"best_worst": best_worst.pair}
