"""The installed package has all it needs: settings, prompts, judge texts and the report's template."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_a_wheel_composes_and_reads_its_own_files_from_any_folder(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("selfreward-*.whl")
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    script = (
        "import sys; sys.argv = ['selfreward', '--cfg', 'job', '--resolve', 'experiment=quick']\n"
        "import selfreward.run as run; print(run.CONF); run.main()\n"
        "from selfreward.config import DataConfig, PromptsConfig; from selfreward.sources import SOURCES\n"
        "print(len(SOURCES['seed_pool'](PromptsConfig(kind='seed_pool'), DataConfig()).train))\n"
        "from selfreward.tracking.report import _environment; _environment().get_template('report.html.jinja')\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(site)}
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=elsewhere, env=environment, capture_output=True, text=True, check=True
    )
    assert str(site / "selfreward" / "conf") in result.stdout
    assert "name: quick" in result.stdout
    assert result.stdout.strip().endswith("216")
