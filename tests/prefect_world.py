"""A user whose runs are flow runs: a worker that has one in hand, and a sweep."""

from __future__ import annotations

import json

from cli_world import World
from prefect_server import Server, Worker, wait

NO_SERVER = "http://127.0.0.1:9/api"


def let_it_end(world: World) -> None:
    """The script goes on to its end, and its machine with it."""
    (world.signs / "go").touch()
    world.wait_until_empty(30)


def submit(world: World, server: Server, deployment: str = "train/manual") -> str:
    """A flow run of this project, for whoever serves the deployment; its id."""
    which = server.get(f"/deployments/name/{deployment}")["id"]
    asked = {"parameters": {"launch": {"command": "python train.py", "grace": "2s"}, "project": str(world.project)}}
    return str(server.ask(f"/deployments/{which}/create_flow_run", asked)["id"])


def under_a_worker(world: World, server: Server, deployment: str = "train/manual") -> tuple[Worker, str]:
    """A worker in whose hands a run of this project is, its script running; and the flow run's id."""
    (world.project / "params.yaml").write_text("launch: {command: python train.py}\n")  # or no night would be made
    done = world.sojourn("deploy", PREFECT_API_URL=server.url)
    assert done.returncode == 0, done.stderr
    worker = Worker(server, world.environment, world.root / "worker.log")
    flow_run = submit(world, server, deployment)
    world.wait_for_file("ready", 150)
    wait(lambda: server.get(f"/flow_runs/{flow_run}")["state_type"] == "RUNNING")
    return worker, flow_run


def reap(world: World, server: Server | None) -> dict[str, str]:
    """What `sojourn reap` did about each run, by its words."""
    done = world.sojourn("reap", "--json", PREFECT_API_URL=server.url if server else NO_SERVER)
    assert done.returncode == 0, done.stdout + done.stderr
    return {finding["action"]: finding["reason"] for finding in json.loads(done.stdout)}


def assert_home(world: World) -> None:
    """The results are in place, the receipt is closed, and no process of a machine lives."""
    assert (world.project / "model.txt").read_text() == "weights"
    assert world.show()["receipt"]["state"] == "closed"
    assert world.kinds()[-1] == "closed" and world.kinds().count("intent") == 1 and len(world.leases()) == 1
    assert not world.machines()
