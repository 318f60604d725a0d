"""`sojourn purge` as a user meets it: a list first, and nothing of theirs or of a run on its way."""

from __future__ import annotations

import json
import time

import pytest
from cli_world import World

from sojourn.store.mailbox import purge_mark

pytestmark = pytest.mark.local


def test_closed_runs_are_listed_then_removed_and_the_users_files_stay(world: World) -> None:
    world.script("open('model.pt', 'w').write('weights')\n")
    assert world.train().returncode == 0
    run = world.run()

    assert "Nothing to remove" in world.sojourn("purge").stdout
    listed = world.sojourn("purge", "--older-than", "0s")
    assert (listed.returncode, run in listed.stdout) == (0, True), listed.stderr
    assert "Nothing was removed. Do it: sojourn purge --older-than 0s --yes" in listed.stdout
    assert f"Do it: sojourn purge {run} --yes" in world.sojourn("purge", run, "--dry-run", "--yes").stdout
    assert run in world.sojourn("runs").stdout

    removed = world.sojourn("purge", "--older-than", "0s", "--yes", "--json")
    assert [one["run"] for one in json.loads(removed.stdout)["runs"]] == [run]
    assert "No runs yet" in world.sojourn("runs").stdout
    assert (world.project / "model.pt").read_text() == "weights"
    store = world.home / "store"
    left = [path.relative_to(store).as_posix() for path in store.rglob("*") if path.is_file()]
    assert left == ["control/store.json"], "which store it is, and nothing else"

    wrong = world.sojourn("purge", "--older-than", "30")
    assert (wrong.returncode, "write it like" in wrong.stderr) == (2, True)


def test_a_run_waits_while_a_purge_removes_shared_files_of_its_project(world: World) -> None:
    world.script("print('trained')\n")
    world.store.put(purge_mark("project"), b"{}")

    cli = world.start_train()
    world.wait(lambda: world.reached("opened"))
    time.sleep(1.0)
    mailbox = world.mailbox()
    assert mailbox is not None
    assert (mailbox.raw("bundle"), mailbox.raw("inputs")) == (None, None)

    world.store.delete(purge_mark("project"))
    assert cli.wait() == 0, cli.output
