"""A user whose script waits for a sign, so that a test can break something while it runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_world import World


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A fresh computer. Fails the test when a machine outlives it."""
    world = World(tmp_path)
    world.script_that_waits()
    yield world
    assert not world.clean()
