"""Progress and curves on a real Prefect server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cli_world import World

if TYPE_CHECKING:
    from conftest import Server

pytestmark = pytest.mark.local
PARAMS = """
launch:
  environment: current
  metrics: {loss: 'loss ([0-9.]+)', step: 'step (\\d+)', steps: 'of (\\d+)'}
"""
SCRIPT = """
    import time
    for step in range(1, 71):
        print(f"step {step} of 70 loss {1 / step:.4f}")
        time.sleep(0.1)
"""


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    assert not world.clean()


def test_a_run_of_some_seconds_has_one_progress_artifact_and_a_curve_in_its_report(
    world: World, server: Server
) -> None:
    world.script(PARAMS, "params.yaml")
    world.script(SCRIPT)
    known = {"PREFECT_API_URL": server.url, "PREFECT_HOME": str(server.home)}
    done = world.sojourn("train", "--quiet", "--", "python", "train.py", **known)
    assert done.returncode == 0, done.stdout + done.stderr

    found = server.artifacts(server.flow_run(world.show()["run"])["id"])
    (progress,) = [one for one in found if one["type"] == "progress"]
    assert (progress["data"], progress["description"]) == (100, "the script ended with exit code 0")
    assert progress["task_run_id"]
    (report,) = [one for one in found if one["key"].endswith("-report")]
    assert "![loss](data:image/svg+xml;base64," in report["data"]
