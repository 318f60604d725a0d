"""The first commands that somebody types: init, doctor, ui."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_world import World

pytestmark = pytest.mark.local

# Answers like a healthy Prefect server, for as long as it lives.
OTHER_SERVER = """
import sys, time
from http.server import BaseHTTPRequestHandler, HTTPServer
class Healthy(BaseHTTPRequestHandler):
    def do_GET(self):
        time.sleep(float(sys.argv[2]))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'"3.0.0"')
    def log_message(self, *words): pass
HTTPServer(("127.0.0.1", int(sys.argv[1])), Healthy).serve_forever()
"""


@pytest.fixture
def port(world: World) -> int:
    """Where this user's Prefect server would listen."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number = int(probe.getsockname()[1])
    world.environment["PREFECT_SERVER_API_PORT"] = str(number)
    return number


@pytest.fixture
def stranger(port: int, world: World) -> Iterator[subprocess.Popen[bytes]]:
    """A server that Sojourn did not start."""
    with subprocess.Popen([sys.executable, "-c", OTHER_SERVER, str(port), "0"]) as process:
        world.wait(lambda: healthy(port))
        yield process
        process.kill()


def healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/health", timeout=1) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def test_from_an_empty_terminal_to_a_run_by_what_each_command_says_next(world: World) -> None:
    world.environment["PREFECT_API_URL"] = "http://127.0.0.1:9/api"
    world.script("print('seen')\n")
    (world.project / "params.yaml").write_text("lr: 0.1 # mine\n")

    first = world.sojourn("doctor")
    assert first.returncode == 0, first.stdout + first.stderr
    assert "mend it: sojourn init" in first.stdout

    made = world.sojourn("init")
    assert made.returncode == 0, made.stderr
    assert (
        (world.project / "params.yaml").read_text().startswith("lr: 0.1 # mine\n\nlaunch:\n  command: python train.py")
    )
    assert "Look at the plan: sojourn plan" in made.stdout
    again = world.sojourn("init")
    assert (again.returncode, "already" in again.stderr) == (2, True)

    planned = world.sojourn("plan")
    assert planned.returncode == 0, planned.stderr
    done = world.sojourn("train")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "seen" in done.stdout


def test_doctor_ends_with_2_when_something_is_missing_and_tells_it_in_json_too(world: World) -> None:
    (world.project / "params.yaml").write_text("launch: {comand: python train.py}\n")

    done = world.sojourn("doctor", "--json")

    assert done.returncode == 2
    found = {check["what"]: check for check in json.loads(done.stdout)}
    assert found["launch"]["state"] == "missing"
    assert "did you mean 'command'?" in found["launch"]["found"]
    assert "missing: launch" in done.stderr


def test_doctor_names_a_store_url_that_is_none(world: World) -> None:
    done = world.sojourn("doctor", SOJOURN_STORE="s4://bucket")
    assert done.returncode == 2
    assert "✗ store" in done.stdout
    assert "did you mean 's3'?" in done.stdout


def test_runs_are_found_in_the_store_that_the_project_names(world: World) -> None:
    world.script("pass\n")
    (world.project / "params.yaml").write_text(
        f"launch: {{command: python train.py, store: {(world.root / 'elsewhere').as_uri()}}}\n"
    )
    assert world.sojourn("train", "--no-prefect").returncode == 0
    assert world.sojourn("show", "last").returncode == 0
    # This host has runs there, and another does not know of them.
    assert "succeeded" in world.sojourn("runs", cwd=world.user).stdout
    assert "No runs yet" in world.sojourn("runs", cwd=world.user, SOJOURN_HOME=str(world.root / "other")).stdout


@pytest.mark.slow
def test_a_store_that_does_not_answer_hides_no_other(world: World) -> None:
    world.script("pass\n")
    assert world.train().returncode == 0
    stores = world.home / "stores.json"
    stores.write_text(json.dumps({"stores": ["s3://of-old", *json.loads(stores.read_text())["stores"]]}))
    nobody = {"AWS_EC2_METADATA_DISABLED": "true", "AWS_DEFAULT_REGION": "us-east-1"}

    listed = world.sojourn("runs", **nobody)
    assert listed.returncode == 0 and "succeeded" in listed.stdout, listed.stderr
    assert "of-old" in listed.stderr or "credentials" in listed.stderr
    assert world.sojourn("show", "last", **nobody).returncode == 0
    reaped = world.sojourn("reap", **nobody)
    assert reaped.returncode == 0, reaped.stderr
    assert "unseen      s3://of-old" in reaped.stdout and "runs --forget s3://of-old" in reaped.stdout, reaped.stdout

    forgotten = world.sojourn("runs", "--forget", "s3://of-old")
    assert forgotten.returncode == 0, forgotten.stderr
    assert world.sojourn("runs", **nobody).stderr == ""
    again = world.sojourn("runs", "--forget", "s3://of-old")
    assert again.returncode == 2 and "remembers no 's3://of-old'" in again.stderr


@pytest.mark.timeout(300)
def test_ui_starts_one_server_which_stop_ends(world: World, port: int, prefect_database: Path) -> None:
    shutil.copytree(prefect_database, world.environment["PREFECT_HOME"])  # as from the second start on
    started = world.sojourn("ui", "--no-browser", seconds=200)
    assert started.returncode == 0, started.stdout + started.stderr
    assert f"http://127.0.0.1:{port} " in started.stdout
    assert healthy(port)
    record = (world.home / "prefect-server.json").read_text()

    assert world.sojourn("ui", "--no-browser").returncode == 0
    assert (world.home / "prefect-server.json").read_text() == record, "the same server"

    stopped = world.sojourn("ui", "--stop")
    assert f"Stopped the Prefect server {json.loads(record)['pid']}" in stopped.stdout
    assert not healthy(port)
    assert not world.alive()
    assert "No Prefect server runs that Sojourn started" in world.sojourn("ui", "--stop").stdout


def test_a_server_that_sojourn_did_not_start_is_used_and_never_stopped(
    world: World, port: int, stranger: subprocess.Popen[bytes]
) -> None:
    assert world.sojourn("ui", "--no-browser").returncode == 0
    assert not (world.home / "prefect-server.json").exists()

    assert "No Prefect server runs" in world.sojourn("ui", "--stop").stdout
    assert stranger.poll() is None


def test_a_server_that_is_busy_is_not_taken_for_one_that_is_away(world: World, port: int) -> None:
    with subprocess.Popen([sys.executable, "-c", OTHER_SERVER, str(port), "2.5"]) as slow:
        time.sleep(1.0)
        done = world.sojourn("ui", "--no-browser", PREFECT_API_URL=f"http://127.0.0.1:{port}/api")
        slow.kill()
    assert done.returncode == 0, done.stderr


def test_a_process_that_got_the_number_of_our_server_is_not_stopped(world: World, port: int) -> None:
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    with subprocess.Popen(["sleep", "60"]) as other:
        record = {"pid": other.pid, "start_time": "1", "boot_id": boot_id, "api": f"http://127.0.0.1:{port}/api"}
        (world.home / "prefect-server.json").write_text(json.dumps(record))

        assert "No Prefect server runs" in world.sojourn("ui", "--stop").stdout
        time.sleep(0.1)
        assert other.poll() is None
        os.kill(other.pid, signal.SIGKILL)


def test_a_configured_server_that_is_away_is_not_replaced(world: World, port: int) -> None:
    done = world.sojourn("ui", "--no-browser", PREFECT_API_URL=f"http://127.0.0.1:{port}/api")
    assert done.returncode == 3
    assert f"no Prefect server answers at http://127.0.0.1:{port}/api" in done.stderr
    assert "prefect config unset PREFECT_API_URL" in done.stderr
    assert not (world.home / "prefect-server.json").exists()

    world.script("pass\n")
    run = world.sojourn("train", "--", "python", "train.py", PREFECT_API_URL=f"http://127.0.0.1:{port}/api")
    assert run.returncode == 0, run.stdout + run.stderr
    assert f":{port}/api: Connection refused: this run has no record in Prefect (start it, or forget it" in run.stdout
