"""What is imported without the libraries that take seconds to load."""

from __future__ import annotations

import subprocess
import sys

HEAVY = {"torch", "transformers", "trl", "peft"}


def loaded_with(*modules: str) -> set[str]:
    """Which heavy libraries a fresh process has loaded once it has imported `modules`."""
    code = f"import sys, {', '.join(modules)}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return HEAVY & {*done.stdout.split()}


def test_settings_and_records_are_there_without_waiting_for_torch() -> None:
    assert loaded_with("selfreward.config", "selfreward.records") == set()


def test_all_that_a_finished_run_needs_is_there_without_waiting_for_torch() -> None:
    assert loaded_with("selfreward.run") == set()
