"""Is a run that was killed ten times the same, byte for byte, as one that was left alone?

    python experiments/2026-11-21-first-loop/kill.py FOLDER

Runs `iteration=2` on the embedded model in FOLDER/whole, then again in FOLDER/killed with SIGKILL at ten random moments
and a restart after each, and compares the SHA-256 of every file of every artifact.
"""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

from selfreward.store import digests

KILLS = 10
COMMAND = [sys.executable, "-m", "selfreward.run", "iteration=2", "tracking.wandb=disabled"]


def main(folder: Path) -> int:
    whole, killed = folder / "whole", folder / "killed"
    subprocess.run([*COMMAND, f"output_dir={whole / 'run'}"], check=True, stdout=subprocess.DEVNULL)
    moments = random.Random(20261121)
    kills = 0
    while kills < KILLS:
        seconds = moments.uniform(3, 45)
        process = subprocess.Popen([*COMMAND, f"output_dir={killed / 'run'}"], stdout=subprocess.DEVNULL)
        try:
            process.wait(seconds)
            print(f"finished before kill {kills + 1}, {seconds:.1f} s after its start", flush=True)
            break
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            kills += 1
            print(f"kill {kills} after {seconds:4.1f} s, during {at_work(killed / 'artifacts')}", flush=True)
    began = time.perf_counter()
    subprocess.run([*COMMAND, f"output_dir={killed / 'run'}"], check=True, stdout=subprocess.DEVNULL)
    print(f"the last start took {time.perf_counter() - began:.1f} s")
    expected, found = digests(whole / "artifacts"), digests(killed / "artifacts")
    files = sum(len(entries) for entries in expected.values())
    print(f"{kills} kills; {len(expected)} artifacts, {files} files; equal: {expected == found}")
    return expected != found


def at_work(artifacts: Path) -> str:
    """The stage that has begun and isn't complete."""
    begun = [path.parent for path in artifacts.glob("*/*/partial") if not (path.parent / "manifest.json").exists()]
    return ", ".join(path.parent.name for path in begun) or "start-up"


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
