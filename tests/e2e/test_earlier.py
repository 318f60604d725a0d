"""A run that an earlier version planned, whose machines look where the run's name says, is finished as it was begun."""

from __future__ import annotations

import json

from cli_world import World

from sojourn.store.mailbox import purge_mark


def test_a_run_that_an_earlier_version_planned_is_continued_read_and_removed_where_it_lies(world: World) -> None:
    world.script('import pathlib\nprint("learns")\npathlib.Path("model.txt").write_text("weights")\n')
    store, mark = world.store, purge_mark(world.project.name)
    store.put(mark, b"{}")
    begun = world.start_train()
    world.wait_until("planned")  # and there it waits
    begun.kill()
    run = world.run()
    key = f"control/{world.project.name}/{run}/plan.json"
    plan = json.loads(store.get(key))
    assert plan.pop("place")
    store.put(key, json.dumps(plan).encode())
    store.delete(mark)
    done = world.sojourn("attach", run, "--take-over")
    assert done.returncode == 0, done.stdout + done.stderr
    assert store.folders() == ["control", "machine"]
    assert store.folders(f"machine/{world.project.name}") == [run]
    assert "learns" in world.sojourn("logs", run).stdout
    assert (world.project / "model.txt").read_text() == "weights"
    assert world.sojourn("pull", run, "--to", "there").returncode == 0
    assert (world.project / "there/model.txt").read_text() == "weights"
    resumed = world.sojourn("train", "--no-prefect", "--from", run, "--", "python", "train.py")
    assert "no complete checkpoint" in resumed.stderr
    assert world.sojourn("purge", run, "--yes").returncode == 0
    assert not [one for one in store.keys("") if run in one]
