"""Each test has a computer of its own, and leaves no machine on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from amazon_world import AmazonWorld
from cli_world import World
from clouds.aws_cloud import AwsCloud


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A fresh data directory, home and project. Fails the test when a machine outlives it."""
    world = World(tmp_path)
    yield world
    survived = world.clean()
    assert not survived, f"machines outlived the test: {survived}"


@pytest.fixture
def amazon(tmp_path: Path, aws_hosts: AwsCloud) -> Iterator[AmazonWorld]:
    """The same, with an account at Amazon. Fails the test when anything outlives it there, or a right was lacking."""
    world = AmazonWorld(tmp_path, aws_hosts)
    yield world
    world.clean()
    assert not world.left(), f"{world.left()} outlived the test"
    assert not world.denied(), "a run needs a right that setup does not give"
