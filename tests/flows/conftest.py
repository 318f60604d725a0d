"""A real Prefect server, one for all tests of the flows."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

START_LIMIT_S = 90.0


class Server:
    """A Prefect API on this host, and the questions the tests ask it."""

    def __init__(self, url: str, home: Path) -> None:
        self.url = url
        self.home = home

    def ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """The answer to a POST."""
        request = urllib.request.Request(
            self.url + path, data=json.dumps(body or {}).encode(), headers={"content-type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.load(answer)

    def flow_run(self, name: str) -> dict[str, Any]:
        """The flow run of this name."""
        (found,) = self.ask("/flow_runs/filter", {"flow_runs": {"name": {"any_": [name]}}})
        return dict(found)

    def task_names(self, flow_run: str) -> list[str]:
        """The flow run's tasks in the order of their start."""
        asked = {"flow_runs": {"id": {"any_": [flow_run]}}, "sort": "EXPECTED_START_TIME_ASC"}
        return [one["name"].rsplit("-", 1)[0] for one in self.ask("/task_runs/filter", asked)]

    def artifacts(self, flow_run: str) -> list[dict[str, Any]]:
        """The flow run's artifacts that have a key."""
        found = self.ask("/artifacts/filter", {"flow_runs": {"id": {"any_": [flow_run]}}})
        return [one for one in found if one["key"]]


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("prefect")
    port = _free_port()
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    environment = {
        **os.environ,
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }
    environment.pop("PREFECT_API_URL", None)
    with (home / "server.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        _wait_until_healthy(f"http://127.0.0.1:{port}/api", process, home / "server.log")
        yield Server(f"http://127.0.0.1:{port}/api", home)
    finally:
        process.terminate()
        process.wait(timeout=30)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_healthy(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + START_LIMIT_S
    while time.monotonic() < end and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=1):
                return
        except OSError:
            time.sleep(0.2)
    raise AssertionError(f"no Prefect server within {START_LIMIT_S} s:\n{log.read_text()[-2000:]}")
