"""The timetable on a real Prefect server, with its scheduler and a real process worker."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cli_world import World
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect_server import Server, Worker, wait
from test_docs import block

from blocks import LocalProvider, Store
from deployments.timetable import OURS, apply, differences, read_timetable

pytestmark = pytest.mark.local
SCRIPT = """
    import json, pathlib, time
    json.dump({"loss": 0.5}, open("metrics.json", "w"))
    pathlib.Path("SIGNS/started").touch()
    while pathlib.Path("SIGNS/wait").exists():
        time.sleep(0.1)
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A user whose project is in a bare git repository, on a host where no project stands."""
    world = World(tmp_path_factory.mktemp("world"))
    world.script(SCRIPT.replace("SIGNS", str(world.signs)))
    (world.project / "params.yaml").write_text("launch: {command: python train.py}\n")
    # Folders of the user's that are named like ours must not get in our way.
    world.script("raise RuntimeError('the tasks of somebody else')", "tasks/__init__.py")
    world.git("init", "-q", "-b", "main")
    world.git("add", ".")
    world.git("commit", "-q", "-m", "a project")
    world.git("clone", "-q", "--bare", ".", str(world.root / "digits.git"))
    yield world
    assert not world.clean()


@pytest.fixture(scope="module")
def source(world: World) -> str:
    return f"git:{(world.root / 'digits.git').as_uri()}@main"


def deploy(world: World, server: Server, *words: str, cwd: Path | None = None) -> str:
    done = world.sojourn("deploy", *words, cwd=cwd, PREFECT_API_URL=server.url)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def deployed(world: World, server: Server, source: str) -> Server:
    deploy(world, server, "--source", source)
    return server


@pytest.fixture(scope="module")
def worker(world: World, deployed: Server) -> Iterator[Worker]:
    worker = Worker(deployed, world.environment, world.root / "worker.log")
    yield worker
    worker.stop()


def run_deployment(world: World, server: Server, name: str, **parameters: Any) -> subprocess.CompletedProcess[str]:
    """`prefect deployment run NAME -p …`."""
    words = [word for key, value in parameters.items() for word in ("-p", f"{key}={json.dumps(value)}")]
    return subprocess.run(
        [sys.executable, "-m", "prefect", "deployment", "run", name, *words],
        env={**world.environment, "PREFECT_API_URL": server.url},
        capture_output=True,
        text=True,
        timeout=150,
    )


def started(done: subprocess.CompletedProcess[str]) -> str:
    """The id of the flow run that was made."""
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.search(r"UUID:\s*([0-9a-f-]{36})", done.stdout)
    assert found, done.stdout
    return found[1]


def ended(server: Server, worker: Worker, world: World, flow_run: str, state: str) -> dict[str, Any]:
    """The flow run at its end, which must be this one."""
    run = server.wait_for_state(flow_run, "COMPLETED", "FAILED", "CRASHED", "CANCELLED", seconds=150)
    story = f"{run['state']['message']}\n{server.logs(flow_run)}\n{(world.root / 'worker.log').read_text()[-3000:]}"
    assert run["state_type"] == state, story
    return run


def test_deploy_says_what_differs_and_applied_twice_changes_nothing(
    world: World, server: Server, source: str, tmp_path: Path
) -> None:
    before = server.ask("/deployments/filter")
    would = deploy(world, server, "--source", source, "--pool", "twice", "--dry-run")
    assert "+ train/nightly" in would and "0 2 * * *" in would and "3 would change" in would
    assert server.ask("/deployments/filter") == before

    deploy(world, server, "--source", source, "--pool", "twice")
    names = {one["name"] for one in server.ask("/deployments/filter")}
    assert names == {"manual", "nightly", "every-10-minutes"}
    assert "0 changed, 3 as they should be" in deploy(
        world, server, "--source", source, "--pool", "twice", cwd=tmp_path
    )

    moved = deploy(world, server, "train/manual", "--source", source, "--pool", "elsewhere", cwd=tmp_path)
    assert re.search(r"~ train/manual\n +work_pool +twice → elsewhere\n1 changed", moved), moved


@pytest.mark.parametrize("words", [(), pytest.param(("--dry-run",), marks=pytest.mark.slow)])
def test_a_night_that_could_never_run_is_refused_and_nothing_is_made(
    world: World, server: Server, tmp_path: Path, words: tuple[str, ...]
) -> None:
    (tmp_path / "train.py").touch()
    before = server.ask("/deployments/filter")
    asked = ("deploy", "--source", str(tmp_path), "--pool", "never", *words)
    done = world.sojourn(*asked, PREFECT_API_URL=server.url)
    assert done.returncode == 2 and "train/nightly would be refused each time: " in done.stderr, done.stderr
    assert "nothing to run" in done.stderr
    assert "sojourn init" in done.stderr and "sojourn deploy train/manual reap/every-10-minutes" in done.stderr
    (tmp_path / "params.yaml").write_text("launch: {command: python train.py, nodse: 2}\n")
    assert "did you mean 'nodes'" in world.sojourn(*asked, PREFECT_API_URL=server.url).stderr
    assert server.ask("/deployments/filter") == before
    # By its form, somebody says each time what to run.
    assert "1 would change" in deploy(
        world, server, "train/manual", "--source", str(tmp_path), "--pool", "never", "--dry-run"
    )


def test_what_only_this_host_may_lack_is_told_and_deployed(world: World, server: Server, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("launch: {command: program-of-the-worker --x}\n")
    words = ("deploy", "train/nightly", "--source", str(tmp_path), "--pool", "told", "--dry-run")
    done = world.sojourn(*words, PREFECT_API_URL=server.url)
    assert done.returncode == 0, done.stderr
    assert "! train/nightly: on this host its runs would be refused: " in done.stderr
    assert "'program-of-the-worker' is not a program on your PATH" in done.stderr
    away = world.sojourn(
        "deploy", "train/nightly", "--source", "git:file:///nowhere.git", "--dry-run", PREFECT_API_URL=server.url
    )
    assert away.returncode == 0 and "cannot be cloned" in away.stderr
    assert not list((world.home / "checkouts").glob("*"))


def test_a_schedule_that_was_switched_off_stays_off(deployed: Server, source: str) -> None:
    nightly = deployed.get("/deployments/name/train/nightly")
    (schedule,) = nightly["schedules"]
    deployed.patch(f"/deployments/{nightly['id']}/schedules/{schedule['id']}", {"active": False})
    for pool in ("another", "sojourn"):
        timetable = read_timetable(OURS, {"SOJOURN_SOURCE": source, "SOJOURN_POOL": pool}, ("train/nightly",))
        with temporary_settings({PREFECT_API_URL: deployed.url}), get_client(sync_client=True) as client:
            ((timed, change),) = differences(client, timetable)
            assert [field for field, _, _ in change.fields] == ["work_pool"]
            apply(client, timed)
        nightly = deployed.get("/deployments/name/train/nightly")
        assert (nightly["work_pool_name"], [one["active"] for one in nightly["schedules"]]) == (pool, [False])


def test_a_schedule_really_yields_runs(deployed: Server) -> None:
    # A wrong pair of versions (see pyproject.toml) leaves the scheduler dead without a sign.
    reap = deployed.get("/deployments/name/reap/every-10-minutes")["id"]
    asked = {"deployments": {"id": {"any_": [reap]}}, "flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}}}
    found = wait(lambda: deployed.ask("/flow_runs/filter", asked), 150)
    assert all(run["auto_scheduled"] for run in found)


@pytest.mark.slow
def test_a_worker_trains_a_project_from_git(world: World, deployed: Server, worker: Worker) -> None:
    with temporary_settings({PREFECT_API_URL: deployed.url}):
        LocalProvider(store=Store(url=world.store.url)).save("laptop", overwrite=True)
    asked = run_deployment(
        world, deployed, "train/manual", launch={"command": "python train.py", "deadline": "5m"}, provider="laptop"
    )
    run = ended(deployed, worker, world, started(asked), "COMPLETED")
    shown = world.show(run["name"])
    assert shown["metrics"] == {"loss": 0.5} and shown["receipt"]["state"] == "closed"
    assert shown["plan"]["project"] == "digits" and shown["plan"]["launch"]["deadline"] == 300
    assert {f"run:{run['name']}", "project:digits", "provider:local"} <= set(run["tags"])
    assert not list((world.home / "checkouts").glob("*/*"))


@pytest.mark.slow
def test_a_cancel_in_prefect_ends_script_and_machine(world: World, deployed: Server, worker: Worker) -> None:
    (world.signs / "wait").touch()
    (world.signs / "started").unlink(missing_ok=True)
    asked = run_deployment(world, deployed, "train/manual", launch={"command": "python train.py", "grace": "2s"})
    flow_run = started(asked)
    world.wait_for_file("started", 150)
    deployed.ask(f"/flow_runs/{flow_run}/set_state", {"state": {"type": "CANCELLING"}})
    run = ended(deployed, worker, world, flow_run, "CANCELLED")
    world.wait_until_empty()
    assert world.show(run["name"])["outcome"]["state"] == "stopped"
    (world.signs / "wait").unlink()


@pytest.mark.slow
def test_missed_nights_do_not_pile_up(world: World, deployed: Server, worker: Worker) -> None:
    nightly = deployed.get("/deployments/name/train/nightly")["id"]
    due = datetime.now(UTC) - timedelta(days=2)
    missed = [
        deployed.ask(
            f"/deployments/{nightly}/create_flow_run",
            {"state": {"type": "SCHEDULED", "state_details": {"scheduled_time": due.isoformat()}}},
        )["id"]
        for _ in range(3)
    ]
    ends = [ended(deployed, worker, world, run, "CANCELLED")["state"]["message"] for run in missed]
    assert any("it was due 2d" in end for end in ends), ends


def test_a_wrong_parameter_is_refused_before_a_run_exists(world: World, deployed: Server) -> None:
    # The other deployment has runs made for it at any moment, by its schedule.
    manual = {"any_": [deployed.get("/deployments/name/train/manual")["id"]]}
    before = len(deployed.flow_runs(deployment_id=manual))
    refused = run_deployment(world, deployed, "train/manual", launch={"nodse": 2})
    assert refused.returncode != 0 and "nodse" in refused.stdout + refused.stderr
    assert len(deployed.flow_runs(deployment_id=manual)) == before


def test_an_unknown_deployment_is_told_with_the_nearest(world: World, server: Server) -> None:
    done = world.sojourn("deploy", "train/nigthly", PREFECT_API_URL=server.url)
    assert done.returncode == 2 and "did you mean 'train/nightly'" in done.stderr


def test_the_deploy_section_of_the_readme_works(world: World, deployed: Server, worker: Worker) -> None:
    dry, wet, start, run = block("Deploy", "bash").splitlines()
    # The tests' own worker was started by these words.
    assert shlex.split(start, comments=True)[1:] == shlex.split("prefect worker start --pool sojourn --type process")
    for line in (dry, wet):
        done = world.sojourn(*shlex.split(line, comments=True)[1:], PREFECT_API_URL=deployed.url)
        assert done.returncode == 0 and str(world.project) in done.stdout, done.stdout + done.stderr
    environment = {**world.environment, "PREFECT_API_URL": deployed.url}
    asked = subprocess.run(shlex.split(run), env=environment, capture_output=True, text=True, timeout=150)
    ended(deployed, worker, world, started(asked), "COMPLETED")
    assert (world.project / "metrics.json").is_file()
