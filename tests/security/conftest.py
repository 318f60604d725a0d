"""A user with a Prefect server that Sojourn started, beside other users and pages that would like to have it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from cli_world import World
from strangers import KEYS, OTHER_USER, Ours, StandIn


@pytest.fixture(scope="session")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ours]:
    world = World(tmp_path_factory.mktemp("ours"))
    stranger = StandIn(user=OTHER_USER if os.geteuid() == 0 else None, answer=b"<!doctype html>")
    world.environment |= {"PREFECT_SERVER_API_PORT": str(stranger.port), **KEYS}
    started = world.sojourn("ui", "--no-browser", seconds=240)
    assert started.returncode == 0, started.stdout + started.stderr
    yield Ours(world, stranger)
    stopped = world.sojourn("ui", "--stop")
    stranger.close()
    assert "Stopped the Prefect server" in stopped.stdout
    assert not world.clean()
