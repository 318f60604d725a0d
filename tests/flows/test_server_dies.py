"""The Prefect server, its worker or the whole host dies; the run ends clean, and Prefect is put right."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from cli_world import World
from prefect_server import Server, Worker, wait
from prefect_world import assert_home, let_it_end, reap, under_a_worker

pytestmark = pytest.mark.local


@pytest.fixture(scope="module")
def mortal(tmp_path_factory: pytest.TempPathFactory, prefect_database: Path) -> Iterator[Server]:
    """A server that tests may kill; each leaves it running."""
    server = Server(tmp_path_factory.mktemp("mortal"), prefect_database)
    server.start()
    yield server
    server.stop()


@pytest.mark.slow
def test_a_stopped_workers_run_comes_home_by_the_next_scheduled_sweep(world: World, mortal: Server) -> None:
    worker, flow_run = under_a_worker(world, mortal)
    worker.stop()  # as a service manager does; Prefect kills its flow runs, without a hook
    assert world.machines()
    (world.signs / "go").touch()
    world.wait_until_empty(30)
    assert mortal.get(f"/flow_runs/{flow_run}")["state_type"] == "RUNNING"

    worker = Worker(mortal, world.environment, world.root / "worker.log")
    sweep = mortal.get("/deployments/name/reap/every-10-minutes")["id"]
    swept = mortal.ask(f"/deployments/{sweep}/create_flow_run", {})["id"]
    swept_run = mortal.wait_for_state(swept, "COMPLETED", "FAILED", "CRASHED", "CANCELLED", seconds=150)
    assert swept_run["state_type"] == "COMPLETED", mortal.logs(swept)
    worker.stop()
    run = mortal.get(f"/flow_runs/{flow_run}")
    assert run["state_type"] == "COMPLETED" and "from the store" in run["state"]["message"], mortal.logs(swept)
    assert world.show()["receipt"]["state"] == "closed"
    assert (world.project / "model.txt").read_text() == "weights"


@pytest.mark.slow
def test_after_the_loss_of_the_host_reap_closes_the_run_and_says_so_in_prefect(world: World, mortal: Server) -> None:
    worker, flow_run = under_a_worker(world, mortal)
    for pid in world.alive():
        with suppress(ProcessLookupError):  # it went with its namespace
            os.kill(pid, signal.SIGKILL)
    worker.process.wait(60)
    world.wait_until_empty()
    assert mortal.get(f"/flow_runs/{flow_run}")["state_type"] == "RUNNING"

    would = world.sojourn("reap", "--dry-run", PREFECT_API_URL=mortal.url)
    assert "would close" in would.stdout, would.stdout
    done = reap(world, mortal)
    assert "without a last word" in done["closed"] and "it is Failed" in done["mended"], done
    assert mortal.get(f"/flow_runs/{flow_run}")["state_type"] == "FAILED"
    assert world.show()["receipt"]["state"] == "closed"
    assert reap(world, mortal) == {}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_whose_concurrency_lease_is_lost_is_handed_over_and_the_reaper_closes_it(
    world: World, mortal: Server
) -> None:
    """By default a server keeps the leases of concurrency limits in memory; each flow run asks for its own again
    after 225 s, and ends itself when it is unknown: https://github.com/PrefectHQ/prefect/issues/18839"""
    worker, flow_run = under_a_worker(world, mortal, "train/nightly")
    mortal.stop()
    mortal.start()
    mortal.wait_for_state(flow_run, "CRASHED", seconds=330)
    assert world.kinds()[-1] == "handover" and "outcome" not in world.kinds() and world.agents()
    worker.stop()
    let_it_end(world)
    done = reap(world, mortal)
    assert done["closed"].startswith("succeeded") and "it is Completed" in done["mended"], done
    assert_home(world)


@pytest.mark.slow
def test_a_server_that_dies_in_the_middle_costs_a_run_nothing(world: World, mortal: Server) -> None:
    cli = world.start("train", "--", "python", "train.py", PREFECT_API_URL=mortal.url)
    world.wait_for_file("ready", 150)
    mortal.stop(signal.SIGKILL)
    (world.signs / "go").touch()
    assert cli.wait(150) == 0, cli.output
    assert "sojourn reap" in cli.output and "Error" not in cli.output and "Traceback" not in cli.output
    assert (world.project / "model.txt").read_text() == "weights"
    shown = world.show()
    assert shown["receipt"]["state"] == "closed" and reap(world, None) == {}

    mortal.start()
    assert mortal.flow_run(shown["run"])["state_type"] == "RUNNING"
    assert "it is Completed" in wait(lambda: reap(world, mortal).get("mended"), 150)
    assert mortal.flow_run(shown["run"])["state_type"] == "COMPLETED"


@pytest.mark.slow
def test_a_server_that_dies_at_the_end_leaves_results_and_receipt(world: World, mortal: Server) -> None:
    (world.signs / "go").touch()
    cli = world.start("train", "--", "python", "train.py", PREFECT_API_URL=mortal.url)
    world.wait_until("release", 150)
    mortal.stop(signal.SIGKILL)
    try:
        assert cli.wait(150) == 0, cli.output
        assert (world.project / "model.txt").read_text() == "weights"
        assert world.show()["receipt"]["state"] == "closed"
    finally:
        mortal.start()


SETTLING = """
import sys
from prefect.client.orchestration import get_client
from prefect.states import Running
from sojourn.store.storage import Store
from tasks.mend import mend

flow_run, store, ended_at = sys.argv[1], Store(sys.argv[2]), float(sys.argv[3])
with get_client(sync_client=True) as client:
    client.set_flow_run_state(flow_run, Running(), force=True)
    for later, dry_run in [(0, False), (60, True), (60, False)]:
        print([one.action for one in mend(client, store, now=ended_at + later, dry_run=dry_run)])
"""


@pytest.mark.slow
def test_a_restart_in_the_middle_is_not_noticed_and_a_run_may_say_itself_how_it_ended(
    world: World, mortal: Server
) -> None:
    cli = world.start("train", "--", "python", "train.py", PREFECT_API_URL=mortal.url)
    world.wait_for_file("ready", 150)
    mortal.stop()
    mortal.start()
    (world.signs / "go").touch()
    assert cli.wait(150) == 0, cli.output
    report = world.show()["report"]
    run = mortal.flow_run(report["run"])
    assert run["state_type"] == "COMPLETED"

    # A state that is set under a living engine makes it abort its last step, so mending waits a moment.
    said = subprocess.run(
        [sys.executable, "-c", SETTLING, run["id"], world.store.url, str(report["ended_at"])],
        env={**world.environment, "PREFECT_API_URL": mortal.url},
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert said.stdout.splitlines() == ["[]", "['would mend']", "['mended']"], said.stderr
