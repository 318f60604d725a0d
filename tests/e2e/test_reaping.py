"""What `sojourn reap` brings home in place of a dead orchestrator, and what it leaves alone."""

from __future__ import annotations

import json
import os
import time
from typing import Any

import pytest
from cli_world import World

from sojourn.plan.planning import Plan
from sojourn.run.closed_runs import mark_open
from sojourn.store.ledger import Ledger
from sojourn.waiting import SystemClock

pytestmark = pytest.mark.local


def reap(world: World) -> list[dict[str, Any]]:
    done = world.sojourn("reap", "--json", PREFECT_API_URL="http://127.0.0.1:9/api")
    assert done.returncode == 0, done.stdout + done.stderr
    return list(json.loads(done.stdout))


def test_a_script_that_still_runs_goes_on_without_an_owner_and_comes_home_when_it_is_over(world: World) -> None:
    world.script_that_waits()
    cli = world.start_train("--deadline", "90s")
    world.wait_for_file("ready")
    cli.kill()
    (finding,) = reap(world)
    assert finding["action"] == "left" and "goes on" in finding["reason"]
    assert "takeover" not in world.kinds()

    (world.signs / "go").touch()
    world.wait_until_empty(20)
    closed = {finding["action"]: finding["reason"] for finding in reap(world)}
    assert closed["closed"].startswith("succeeded"), closed
    assert (world.project / "model.txt").read_text() == "weights"
    assert world.show()["receipt"]["state"] == "closed" and world.kinds()[-1] == "closed"
    assert reap(world) == []


@pytest.mark.slow
def test_a_run_in_living_hands_is_left_to_them(world: World) -> None:
    world.script_that_waits()
    cli = world.start_train("--deadline", "90s")
    world.wait_for_file("ready")
    cli.kill()
    mailbox = world.mailbox()
    assert mailbox is not None
    owner = Ledger(mailbox, SystemClock(), owner="the other", beat_every_s=0.5)
    owner.join(take_over=True)
    (world.signs / "go").touch()
    with owner.beating():
        world.wait_until_empty(20)
        left = [finding["reason"] for finding in reap(world) if finding["name"] == world.run()]
    assert left and "in the hands of the other, which is alive" in left[0]
    owner.append("handover")
    assert "closed" in {finding["action"] for finding in reap(world)}


def test_a_run_that_rented_nothing_yet_is_left_to_a_person(world: World) -> None:
    world.script("print('never')")
    cli = world.start_train("--deadline", "90s")
    world.wait_until("opened")
    cli.kill()
    if "intent" not in world.kinds():
        assert reap(world) == []
    attached = world.sojourn("attach", world.run(), "--take-over")
    assert attached.returncode == 0, attached.stderr


def test_processes_of_another_host_are_for_that_host_to_judge(world: World) -> None:
    world.script("open('model.txt', 'w').write('weights')")
    assert world.train().returncode == 0
    mailbox = world.mailbox()
    assert mailbox is not None
    plan = mailbox.read("plan", Plan)
    assert plan is not None
    mailbox.store.delete(f"{mailbox.control}/report.json")  # as if nobody had come to write it
    mark_open(mailbox.store, mailbox.project, mailbox.run)
    mailbox.write("plan", plan.model_copy(update={"host": "elsewhere", "deadline_at": plan.created_at - 3600}))
    (finding,) = reap(world)
    assert finding["action"] == "left" and "elsewhere's, reap there" in finding["reason"]


@pytest.mark.slow
def test_runs_shows_orphans_first_with_the_command_that_ends_them(world: World) -> None:
    world.script_that_waits()
    cli = world.start_train("--deadline", "90s", "--grace", "2s")
    world.wait_for_file("ready")
    followed = json.loads(world.sojourn("runs", "--json").stdout)
    assert [one["orphan"] for one in followed] == [None]
    cli.kill()
    orphan = world.run()
    owner = world.home / "store" / "control" / followed[0]["project"] / orphan / "owner.json"
    os.utime(owner, (time.time() - 100,) * 2)  # as if a while had passed
    world.script("print('well')", "other.py")
    assert world.train("--", "python", "other.py").returncode == 0

    first, second = json.loads(world.sojourn("runs", "--json", "--limit", "2").stdout)
    assert (first["run"], first["remedy"]) == (orphan, f"sojourn stop {orphan}") and second["orphan"] is None
    said = world.sojourn("runs").stdout.splitlines()[0]
    assert said.startswith(f"! {orphan}") and f"end them: sojourn stop {orphan}" in said
    assert world.sojourn("stop", orphan).returncode == 0
    world.wait_until_empty(20)
    over = json.loads(world.sojourn("runs", "--json").stdout)[0]
    assert (over["run"], over["remedy"]) == (orphan, f"sojourn stop {orphan}")  # nobody has written how it ended yet
    assert "closed" in {finding["action"] for finding in reap(world)}
    assert [one["orphan"] for one in json.loads(world.sojourn("runs", "--json").stdout)] == [None, None]
