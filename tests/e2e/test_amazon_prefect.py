"""A run on Amazon in Prefect's hands: a deployment, a provider's block, a worker that is nobody's laptop."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from amazon_world import PROJECT, AmazonWorld
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect_server import Server, Worker

from blocks import AwsProvider

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.fixture
def world(amazon: AmazonWorld) -> AmazonWorld:
    return amazon


@pytest.fixture
def worker(world: AmazonWorld, server: Server) -> Iterator[Worker]:
    worker = Worker(server, world.environment, world.root / "worker.log", pool="amazon")
    yield worker
    worker.stop()


def test_a_worker_trains_a_project_from_git_on_a_machine_of_amazons(
    world: AmazonWorld, server: Server, worker: Worker
) -> None:
    world.script("import json, pathlib; json.dump({'loss': 0.25}, open('metrics.json', 'w'))")
    world.git("init", "-q", "-b", "main")
    world.git("add", ".")
    world.git("commit", "-q", "-m", "a project")
    world.git("clone", "-q", "--bare", ".", str(world.root / "digits.git"))
    source = f"git:{(world.root / 'digits.git').as_uri()}@main"
    deployed = world.sojourn("deploy", "train/manual", "--source", source, "--pool", "amazon", **server.environment)
    assert deployed.returncode == 0, deployed.stdout + deployed.stderr
    with temporary_settings({PREFECT_API_URL: server.url}):
        AwsProvider().save("the-cloud", overwrite=True)
    manual = server.get("/deployments/name/train/manual")["id"]
    launch = {"command": "python train.py", "machine": "t3.micro", "environment": "current", "deadline": "10m"}

    asked = server.ask(
        f"/deployments/{manual}/create_flow_run",
        {"parameters": {"launch": launch, "provider": "sojourn-aws-provider/the-cloud"}},
    )
    run = server.wait_for_state(asked["id"], "COMPLETED", "FAILED", "CRASHED", seconds=240)

    story = f"{run['state']['message']}\n{server.logs(asked['id'])}\n{(world.root / 'worker.log').read_text()[-3000:]}"
    assert run["state_type"] == "COMPLETED", story + world.story()
    assert {"provider:aws", f"project:{PROJECT}"} <= set(run["tags"])
    kept = {one["key"].rsplit("-", 1)[1]: one["data"] for one in server.artifacts(asked["id"])}
    assert {"plan", "report", "receipt"} <= kept.keys() and "t3.micro" in kept["receipt"]
    shown = world.show(run["name"])  # from the bucket, on a computer that took no part
    assert shown["metrics"] == {"loss": 0.25} and shown["receipt"]["state"] == "closed"
