"""The round trip as a flow run on a real Prefect server."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dvc_project
import pytest
from cli_world import WAITS, World
from prefect_server import wait

if TYPE_CHECKING:
    from prefect_server import Server

pytestmark = pytest.mark.local
STEPS = [
    "plan",
    "upstream",
    "bundle",
    "data",
    "environment",
    "provision",
    "train",
    "collect",
    "release",
    "confirm",
    "publish",
]
SCRIPT = "import json; json.dump({'loss': 0.5}, open('metrics.json', 'w')); print('trained')"
SIDE_BY_SIDE = {"bundle", "data", "environment"}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    world.script(SCRIPT)
    yield world
    assert not world.clean()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, server: Server) -> Iterator[World]:
    """A user whose script has run, as a flow run; for tests that only look."""
    world = World(tmp_path_factory.mktemp("trained"))
    world.script(SCRIPT)
    done = train(world, server, "train.py")
    assert done.returncode == 0, done.stdout + done.stderr
    yield world
    assert not world.clean()


def train(world: World, server: Server, *words: str) -> subprocess.CompletedProcess[str]:
    return world.sojourn("train", "--", "python", *words, PREFECT_API_URL=server.url, PREFECT_HOME=str(server.home))


def all_tasks(server: Server, flow_run: str) -> dict[str, dict[str, Any]]:
    """The tasks of a run that is over, once the server has heard of all."""

    def told() -> dict[str, dict[str, Any]] | None:
        tasks = server.tasks(flow_run)
        over = all(task["type"] in ("COMPLETED", "FAILED") for task in tasks.values())
        return tasks if over and len(tasks) == len(STEPS) else None

    return wait(told)


def in_order(steps: list[str]) -> list[str]:
    """The steps, those that run side by side as one."""
    return ["|".join(sorted(SIDE_BY_SIDE)) if step in SIDE_BY_SIDE else step for step in steps]


def test_a_run_is_a_flow_run_with_a_task_for_each_step(trained: World, server: Server) -> None:
    shown = trained.show()
    run = server.flow_run(shown["run"])
    assert run["state"]["type"] == "COMPLETED"
    assert in_order(server.task_names(run["id"])) == in_order(STEPS)
    assert shown["metrics"] == {"loss": 0.5}
    assert {one["gone_at"] is not None for one in shown["receipt"]["resources"]} == {True}


def test_a_server_that_nobody_configured_hears_all_and_stays_the_only_one(world: World, server: Server) -> None:
    world.script("import time; time.sleep(4)")
    world.environment.pop("PREFECT_API_URL", None)
    found = {"PREFECT_SERVER_API_PORT": str(server.port), "PREFECT_HOME": str(server.home)}
    command = world.start("train", "--", "python", "train.py", **found)
    others = set[str]()
    while command.process.poll() is None:
        others |= _servers_started_for(server.home)
        time.sleep(0.1)
    assert command.process.returncode == 0
    assert not others
    run = world.show()["run"]
    assert f"run:{run}" in server.flow_run(run)["tags"]


def _servers_started_for(home: Path) -> set[str]:
    """The servers that Prefect's client starts by itself where it knows of none."""
    found = set[str]()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (folder / "cmdline").read_bytes()
            if b"uvicorn" in words and f"PREFECT_HOME={home}".encode() in (folder / "environ").read_bytes():
                found.add(folder.name)
    return found


def test_plan_report_and_receipt_are_artifacts(trained: World, server: Server) -> None:
    shown = trained.show()
    kept = {one["key"]: one for one in server.artifacts(server.flow_run(shown["run"])["id"])}
    assert {key.rsplit("-", 1)[1] for key in kept} == {"plan", "report", "receipt"}
    receipt = kept[f"{shown['plan']['project']}-receipt"]["data"]
    assert [one["name"] for one in shown["receipt"]["resources"] if f"`{one['name']}`, pid " not in receipt] == []
    assert "- **command** python train.py\n" in kept[f"{shown['plan']['project']}-plan"]["data"]
    assert "| loss | 0.5 |" in kept[f"{shown['plan']['project']}-report"]["data"]


def test_flow_and_plain_walk_take_the_same_steps(trained: World, world: World) -> None:
    as_flow = trained.show()["report"]["phases"]
    assert world.train().returncode == 0
    assert in_order(list(as_flow)) == in_order(list(world.show()["report"]["phases"]))


def test_a_failed_script_is_a_failed_flow_run(world: World, server: Server) -> None:
    world.script("raise SystemExit(3)", "bad.py")
    done = train(world, server, "bad.py")
    assert done.returncode == 1
    run = server.flow_run(world.show()["run"])
    assert (run["state"]["type"], run["state"]["message"]) == ("FAILED", "the script ended with exit code 3")
    assert "Traceback" not in server.logs(run["id"])
    assert "closed" in done.stdout and "exit code 3" in done.stderr
    tasks = all_tasks(server, run["id"])
    assert {name for name, task in tasks.items() if task["type"] != "COMPLETED"} == {"train"}
    assert tasks["train"]["message"] == "the script ended with exit code 3"


def test_the_graph_tells_the_order_of_the_tasks(trained: World, server: Server) -> None:
    tasks = all_tasks(server, server.flow_run(trained.show()["run"])["id"])
    after = {name: task["after"] for name, task in tasks.items()}
    assert after.pop("plan") == set() and after.pop("provision") >= SIDE_BY_SIDE
    assert after == {
        "upstream": {"plan"}, "bundle": {"upstream"}, "data": {"upstream"}, "environment": {"upstream"},
        "train": {"provision"}, "collect": {"train"}, "release": {"collect"}, "confirm": {"release"},
        "publish": {"confirm"},
    }  # fmt: skip


def test_bad_input_makes_no_flow_run(world: World, server: Server) -> None:
    ours = {"is_null_": True}  # those of deployments come at any moment, by their schedules
    before = len(server.flow_runs(deployment_id=ours))
    assert train(world, server, "trian.py").returncode == 2
    assert len(server.flow_runs(deployment_id=ours)) == before


def test_without_a_server_the_run_goes_on_and_says_so(world: World) -> None:
    done = world.sojourn("train", "--", "python", "train.py", PREFECT_API_URL="http://127.0.0.1:9/api")
    assert done.returncode == 0, done.stderr
    assert "without" in done.stdout and world.show()["outcome"]["state"] == "succeeded"


def test_the_flow_runs_from_a_script_of_the_users(world: World, server: Server) -> None:
    world.script("raise SystemExit(3)", "bad.py")
    world.script(
        """
        import sys
        from flows.train import train
        from sojourn.spec.launch import Launch
        from sojourn.errors import TrainingError
        report = train(Launch(command=("python", "train.py")), sys.argv[1])
        print("REPORT", report.state, report.run)
        try:
            train(Launch(command=("python", "bad.py")), sys.argv[1])
        except TrainingError as error:
            print("ERROR", error.message)
        refused = train(Launch(command=("python", "trian.py")), sys.argv[1], return_state=True)
        print("REFUSED", refused.state_details.flow_run_id)
        """,
        "launch_it.py",
    )
    done = subprocess.run(
        [sys.executable, "launch_it.py", str(world.project)],
        cwd=world.project,
        env={**world.environment, "PREFECT_API_URL": server.url, "PREFECT_HOME": str(server.home)},
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert done.returncode == 0, done.stderr
    run = done.stdout.split("REPORT succeeded ")[1].split()[0]
    assert server.flow_run(run)["name"] == run and world.show(run)["run"] == run
    assert "ERROR the script ended with exit code 3\n" in done.stdout
    refused = done.stdout.split("REFUSED ")[1].split()[0]
    told = wait(lambda: logs if "trian.py" in (logs := server.logs(refused)) else None)
    assert "Traceback" not in told and "scripts here: bad.py" in told


@pytest.mark.slow
def test_the_process_that_records_a_stage_never_loads_dvc(
    world: World, server: Server, dvc_template: dvc_project.Project
) -> None:
    world.project = dvc_template.copy(world.root / "stage").root
    program = "import atexit, sys, cli.main; atexit.register(lambda: print('dvc.repo' in sys.modules)); cli.main.main()"
    done = subprocess.run(
        [sys.executable, "-c", program, "train", "--stage", "train"],
        cwd=world.project,
        env={**world.environment, "PREFECT_API_URL": server.url},
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "False"), done.stdout + done.stderr
    assert dvc_project.dvc(world.project, "status", "train").strip().endswith("up to date.")


@pytest.mark.slow
def test_ctrl_c_in_a_stage_that_comes_after_ends_that_stage(
    world: World, server: Server, dvc_template: dvc_project.Project
) -> None:
    project = dvc_template.copy(world.root / "stage")
    world.project = project.root
    waits = WAITS.format(ready=str(world.signs / "ready"), go=str(world.signs / "go"))
    project.write("report.py", textwrap.dedent(waits))
    project.save()
    cli = world.start("train", "--stage", "train", PREFECT_API_URL=server.url)
    world.wait_for_file("ready", 150)
    os.killpg(cli.process.pid, signal.SIGINT)  # as a terminal does it
    assert cli.wait() != 0, cli.output
    wait(lambda: not any("report.py" in line for line in world.alive().values()))
    assert world.show()["receipt"]["state"] == "closed"


def test_its_parameters_are_a_typed_form() -> None:
    code = "import json; from flows.train import train; print(json.dumps(train.parameters.model_dump()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=150)
    schema: dict[str, Any] = json.loads(done.stdout)
    fields = schema["definitions"]["Launch"]["properties"]
    assert schema["properties"]["project"]["default"] == "."
    assert {name for name, field in fields.items() if not field.get("description")} == set()
    written = {name: fields[name] for name in ("gpu", "memory", "disk")}
    assert {name: (kind["type"], kind["examples"][0]) for name, kind in written.items()} == {
        "gpu": ("string", "L4"), "memory": ("string", "64GB"), "disk": ("string", "64GB")
    }  # fmt: skip


RETRIES = """
from prefect import flow
from sojourn.errors import SpecError, TransientError
from tasks import step as module

module.FIRST_DELAY_S = 0.05
tries = {"busy": 0, "wrong": 0}

def attempt(name, error):
    tries[name] += 1
    raise error("no")

@module.step("busy")
def busy():
    if tries["busy"] < 2:
        attempt("busy", TransientError)

@module.step("wrong")
def wrong():
    attempt("wrong", SpecError)

@flow
def both() -> None:
    busy()
    wrong(return_state=True)

both()
print("TRIES", tries)
"""


def test_a_step_is_tried_again_when_the_store_was_busy_and_not_when_the_request_is_wrong(server: Server) -> None:
    done = subprocess.run(
        [sys.executable, "-c", RETRIES],
        env={**os.environ, **server.environment},
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert "TRIES {'busy': 2, 'wrong': 1}" in done.stdout, done.stderr
