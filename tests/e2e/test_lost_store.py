"""A store that fills up, or goes away, while a run writes to it: what it has not is kept on this host, and told."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_world import World
from small_disk import fill, small_disk

pytestmark = [pytest.mark.local, pytest.mark.slow]
LARGE = """
    import os, pathlib, time
    pathlib.Path({ready!r}).touch()
    while not pathlib.Path({go!r}).exists():
        time.sleep(0.05)
    pathlib.Path("model.bin").write_bytes(os.urandom(8_000_000))
    pathlib.Path("small.txt").write_text("small")
"""


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.clean()


def kept(world: World) -> set[str]:
    return {path.name for path in world.home.glob("machines/*/*/kept/*")}


def run_on(world: World, disk: Path, ballast: bool) -> str:
    """What the command says of a run whose results do not fit into its store."""
    world.environment["SOJOURN_STORE"] = (disk / "store").as_uri()
    world.script(LARGE.format(ready=str(world.signs / "ready"), go=str(world.signs / "go")))
    cli = world.start_train()
    world.wait_for_file("ready")
    if ballast:
        fill(disk / "ballast")
    (world.signs / "go").touch()
    assert cli.wait(200) == 3, cli.output
    world.wait_until_empty(120)
    return cli.output


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small disk, which only root may")
def test_a_result_that_the_store_has_no_room_for_is_kept_and_told(world: World) -> None:
    with small_disk(world.root / "disk", "6m") as disk:
        said = run_on(world, disk, ballast=False)
        assert "model.bin could not be stored" in said and f"in {world.home}/machines/" in said
        assert {"model.bin", "small.txt"} <= kept(world)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small disk, which only root may")
def test_a_store_without_a_byte_left_ends_machine_and_command_and_is_closed_once_there_is_room(world: World) -> None:
    with small_disk(world.root / "disk", "6m") as disk:
        assert "the store is full" in run_on(world, disk, ballast=True)
        assert world.sojourn("purge", "--yes").returncode == 0
        (disk / "ballast").unlink()
        swept = world.sojourn("reap")
        assert swept.returncode == 0 and f"in {world.home}/machines/" in swept.stdout, swept.stdout + swept.stderr
        assert {"model.bin", "small.txt"} <= kept(world)


def test_a_store_that_goes_away_in_the_middle_is_not_made_anew_and_the_run_is_closed_when_it_is_back(
    world: World,
) -> None:
    world.script_that_waits()
    cli = world.start_train()
    world.wait_for_file("ready")
    (world.home / "store").rename(world.root / "elsewhere")
    (world.signs / "go").touch()
    assert cli.wait(200) == 3 and "is not there, or shows nothing" in cli.output
    world.wait_until_empty(120)
    assert not (world.home / "store").exists() and "model.txt" in kept(world)
    (world.root / "elsewhere").rename(world.home / "store")
    swept = world.sojourn("reap")
    assert swept.returncode == 0 and "closed" in swept.stdout, swept.stdout + swept.stderr
