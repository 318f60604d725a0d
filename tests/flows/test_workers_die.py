"""Whatever happens to a worker and to the flow runs in its hands: what stands afterwards is closed by somebody.

docs/guarantee.md holds the table of all such cases.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from cli_world import World
from prefect_server import Server, wait
from prefect_world import assert_home, let_it_end, reap, submit, under_a_worker

pytestmark = [pytest.mark.local, pytest.mark.slow, pytest.mark.timeout(300)]


def test_a_flow_run_that_is_scheduled_again_takes_over_the_lease_of_its_dead_process(
    world: World, server: Server
) -> None:
    worker, flow_run = under_a_worker(world, server)
    machines = world.supervisors()
    os.kill(_process_of_the_flow(world), signal.SIGKILL)
    server.wait_for_state(flow_run, "CRASHED", seconds=60)
    assert world.supervisors() == machines
    server.ask(f"/flow_runs/{flow_run}/set_state", {"state": {"type": "SCHEDULED", "name": "AwaitingRetry"}})
    world.wait_until("takeover", 90)
    assert world.supervisors() == machines
    (world.signs / "go").touch()
    server.wait_for_state(flow_run, "COMPLETED", seconds=90)
    worker.stop()
    assert_home(world)


def _process_of_the_flow(world: World) -> int:
    """The flow run's own process, which the worker started."""
    # A fork of it plans meanwhile.
    return min(pid for pid, line in world.alive().items() if "flow_engine" in line or "prefect.engine" in line)


def test_a_killed_worker_takes_nothing_with_it(world: World, server: Server) -> None:
    worker, flow_run = under_a_worker(world, server)
    worker.stop(signal.SIGKILL)
    (world.signs / "go").touch()
    server.wait_for_state(flow_run, "COMPLETED", seconds=90)
    assert_home(world)


ZOMBIES = {
    "name": "zombies",
    "trigger": {
        "type": "event",
        "posture": "Proactive",
        "after": ["prefect.flow-run.heartbeat"],
        "expect": ["prefect.flow-run.*"],
        "match": {"prefect.resource.id": "prefect.flow-run.*"},
        "for_each": ["prefect.resource.id"],
        "threshold": 1,
        "within": 90,
    },
    "actions": [{"type": "change-flow-run-state", "state": "CRASHED", "message": "no heartbeat"}],
}


def test_a_zombie_that_prefect_calls_crashed_leaves_its_script_running_and_the_reaper_closes_it(
    world: World, server: Server
) -> None:
    """The automation is Prefect's own advice: https://docs.prefect.io/v3/advanced/detect-zombie-flows"""
    world.environment["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] = "30"  # the least that Prefect takes
    zombies = server.ask("/automations/", ZOMBIES)["id"]
    try:
        worker, flow_run = under_a_worker(world, server)
        heartbeat = {"event": {"name": ["prefect.flow-run.heartbeat"]}}
        whose = {"resource": {"id": [f"prefect.flow-run.{flow_run}"]}}
        wait(lambda: server.ask("/events/filter", {"filter": {**heartbeat, **whose}})["events"], 60)
        worker.stop(signal.SIGKILL)
        os.kill(_process_of_the_flow(world), signal.SIGKILL)
        server.wait_for_state(flow_run, "CRASHED", seconds=200)
    finally:
        server.delete(f"/automations/{zombies}")
    assert world.supervisors() and world.agents() and "outcome" not in world.kinds()
    assert "goes on" in reap(world, server)["left"]
    let_it_end(world)
    done = reap(world, server)
    assert done["closed"].startswith("succeeded") and "as Crashed, and it is Completed" in done["mended"], done
    assert_home(world)


SERVES = """
from flows.train import train
train.serve(name="served", pause_on_shutdown=False)
"""


def test_a_cancel_of_a_served_flow_ends_script_and_machine(world: World, server: Server) -> None:
    with (world.root / "serve.log").open("wb") as log:
        serving = subprocess.Popen(
            [sys.executable, "-c", SERVES],
            cwd=world.project,
            env={**world.environment, "PREFECT_API_URL": server.url, "PREFECT_RUNNER_POLL_FREQUENCY": "1"},
            stdout=log,
            stderr=log,
        )
    try:
        wait(lambda: [one for one in server.ask("/deployments/filter") if one["name"] == "served"], 60)
        flow_run = submit(world, server, "train/served")
        world.wait_for_file("ready", 150)
        server.ask(f"/flow_runs/{flow_run}/set_state", {"state": {"type": "CANCELLING"}})
        server.wait_for_state(flow_run, "CANCELLED", seconds=90)
        world.wait_until_empty(30)
        # Prefect leaves a cancelled flow 30 s: enough to give the machines back, not to wait for what comes of it.
        assert world.show()["outcome"]["state"] == "stopped" and "release" in world.kinds()
        assert "closed" in reap(world, server) and world.show()["receipt"]["state"] == "closed"
    finally:
        serving.terminate()
        serving.wait(60)


@pytest.mark.timeout(600)
def test_a_server_away_at_teardown_of_a_workers_run_costs_it_nothing(
    world: World, tmp_path_factory: pytest.TempPathFactory, prefect_database: Path
) -> None:
    away = Server(tmp_path_factory.mktemp("away"), prefect_database)
    away.start()
    try:
        worker, flow_run = under_a_worker(world, away)
        away.stop(signal.SIGKILL)
        (world.signs / "go").touch()
        world.wait(lambda: world.kinds()[-1:] == ["closed"], 90)
        assert_home(world)  # long before the engine has given up to say so, which takes it minutes
        away.start()
        wait(lambda: _right_in_prefect(world, away, flow_run), 300)
        worker.stop()
    finally:
        away.stop()


def _right_in_prefect(world: World, server: Server, flow_run: str) -> bool:
    """Whether the flow run's state is what the run came to, by its own process or by a sweep."""
    reap(world, server)
    return bool(server.get(f"/flow_runs/{flow_run}")["state_type"] == "COMPLETED")
