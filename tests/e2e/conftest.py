"""Each test has a computer of its own, and leaves no machine on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_world import World


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A fresh data directory, home and project. Fails the test when a machine outlives it."""
    world = World(tmp_path)
    yield world
    survived = world.clean()
    assert not survived, f"machines outlived the test: {survived}"
