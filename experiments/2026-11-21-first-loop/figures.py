"""What a run took, and what its policies are.

    python experiments/2026-11-21-first-loop/figures.py outputs/default

Prints seconds and tokens/s by stage, each policy with its parent and hash, and what policy 0 and the last one answer.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from selfreward.engines.base import Decoding, SampleRequest
from selfreward.engines.hf import HFEngine
from selfreward.model import model_files
from selfreward.model.adapters import WEIGHTS_FILE, Adapter
from selfreward.model.models import Models
from selfreward.store import Cost, Manifest

ORDER = ("prompts", "candidates", "judgements", "pairs", "references", "policy")
ORDER += ("held_out_candidates", "held_out_judgements", "evaluation")
PROMPT = "Why do leaves change colour in autumn? Answer in two sentences."


def main(run: Path) -> None:
    places = sorted((run / "iterations").iterdir(), key=lambda place: int(place.name))
    costs(places)
    policies(places)
    answers(run, places[-1] / "policy")


def costs(places: list[Path]) -> None:
    by_stage = {name: Cost() for name in ORDER}
    for path in (path for place in places for path in place.iterdir() if path.name in by_stage):
        by_stage[path.name] += manifest(path).cost
    print(f"{'':22}{'seconds':>8}{'tokens':>9}{'tokens/s':>10}")
    for name, cost in by_stage.items():
        speed = f"{cost.tokens / cost.seconds:10,.0f}" if cost.tokens else ""
        print(f"{name:22}{cost.seconds:8.1f}{cost.tokens:9,}{speed}")
    total = sum(by_stage.values(), Cost())
    print(f"{'all stages':22}{total.seconds:8.1f}{total.tokens:9,}   peak {total.peak_memory_bytes / 2**30:.1f} GiB")


def policies(places: list[Path]) -> None:
    for place in places:
        found = manifest(place / "policy")
        weights = found.files[WEIGHTS_FILE].sha256[:12] if WEIGHTS_FILE in found.files else "no adapter"
        print(f"policy {place.name}  {found.id}  weights {weights}  parent {found.parents.get('policy', 'none')}")


def answers(run: Path, last: Path) -> None:
    settings = json.loads((run / "config.json").read_text())["model"]
    models = Models(model_files.locate(settings["name"], settings["revision"]), settings["dtype"], "auto")
    engine = HFEngine(models, rows=1, scoring_tokens=2048, merge_adapter=False)
    request = SampleRequest(models.chat.render(PROMPT), [0])
    for name, adapter in (("policy 0", None), ("the last policy", Adapter("last", last.resolve()))):
        (completion,) = engine.sample([request], Decoding(0.0, 1.0, 60), adapter, lambda *_: None)[0]
        print(f"\n{name}: {models.chat.decode(completion.token_ids)}")


def manifest(path: Path) -> Manifest:
    found = Manifest.read(path)
    assert found is not None, path
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1]))
