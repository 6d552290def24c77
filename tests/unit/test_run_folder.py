"""The folder of a run: links by name to what it is made of, and nothing of what it was before."""

from __future__ import annotations

from pathlib import Path

from selfreward.tracking.run_folder import link, linked
from tests.unit.reporting import Maker


def test_links_lead_to_the_artifacts_where_links_lie_on_the_way(tmp_path: Path) -> None:
    disk = tmp_path / "a" / "large" / "disk"
    disk.mkdir(parents=True)
    (tmp_path / "outputs").symlink_to(disk)
    artifact = Maker(tmp_path / "artifacts").artifact("policies", {})
    artifact.manifest.write(artifact.path)
    run = tmp_path / "outputs" / "run"
    link(run, [{"policy": artifact}])
    assert linked(run, 0)["policy"].path.resolve() == artifact.path
