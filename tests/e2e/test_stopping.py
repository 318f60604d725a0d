"""Stopping a run: the script is asked first, what it committed comes home, the machines go."""

from __future__ import annotations

import pytest
from cli_world import World

pytestmark = pytest.mark.local


def test_a_script_makes_the_round_trip(world: World) -> None:
    world.script("print('hello')\nopen('model.txt', 'w').write('weights')")

    done = world.train()

    assert done.returncode == 0, done.stderr
    assert (world.project / "model.txt").read_text() == "weights"
    assert world.show()["receipt"]["state"] == "closed"
    assert not world.machines()
