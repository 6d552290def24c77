"""Ways to have a policy write new prompts. A way is one small file and one line here."""

from collections.abc import Mapping

from selfreward.generation import evolve, self_instruct
from selfreward.generation.base import Way

WAYS: Mapping[str, Way] = {"self_instruct": self_instruct.WAY, "evolve": evolve.WAY}
