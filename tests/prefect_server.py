"""A real Prefect server on this host, and the questions that tests ask it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
START_LIMIT_S = 240.0


class Server:
    """A Prefect API with its scheduler, which may be stopped and started again."""

    def __init__(self, home: Path, database: Path | None = None) -> None:
        """A server with its files in `home`; with a copy of `database`, whose making takes half of a start."""
        self.home = home
        if database:
            shutil.copytree(database, home, dirs_exist_ok=True)
        self.port = _free_port()
        self.url = f"http://127.0.0.1:{self.port}/api"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        """What points a process at this server."""
        return {"PREFECT_API_URL": self.url, "PREFECT_HOME": str(self.home)}

    def start(self) -> None:
        """Start it, and wait until it is healthy."""
        command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(self.port)]
        environment = {
            **os.environ,
            "PREFECT_HOME": str(self.home),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
        }
        environment.pop("PREFECT_API_URL", None)
        with (self.home / "server.log").open("ab") as log:
            self._process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        end = time.monotonic() + START_LIMIT_S
        while not self._healthy():
            if time.monotonic() > end or self._process.poll() is not None:
                raise AssertionError(f"no Prefect server:\n{(self.home / 'server.log').read_text()[-2000:]}")
            time.sleep(0.2)

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End it, by default politely."""
        assert self._process is not None
        self._process.send_signal(number)
        self._process.wait(timeout=150)

    def ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """The answer to a POST."""
        return self._answer("POST", path, json.dumps(body or {}).encode())

    def get(self, path: str) -> Any:
        """The answer to a GET."""
        return self._answer("GET", path, None)

    def patch(self, path: str, body: dict[str, Any]) -> None:
        """A PATCH, whose answer is empty."""
        self._answer("PATCH", path, json.dumps(body).encode())

    def delete(self, path: str) -> None:
        """A DELETE, whose answer is empty."""
        self._answer("DELETE", path, None)

    def flow_runs(self, **filters: dict[str, Any]) -> list[dict[str, Any]]:
        """The flow runs that pass the filters."""
        return list(self.ask("/flow_runs/filter", {"flow_runs": filters}))

    def flow_run(self, name: str) -> dict[str, Any]:
        """The flow run of this name."""
        (found,) = self.flow_runs(name={"any_": [name]})
        return found

    def wait_for_state(self, flow_run: str, *states: str, seconds: float = 150.0) -> dict[str, Any]:
        """The flow run, once it has one of the states."""
        return wait(
            lambda: next((one for one in [self.get(f"/flow_runs/{flow_run}")] if one["state_type"] in states), None),
            seconds,
        )

    def task_names(self, flow_run: str) -> list[str]:
        """The flow run's tasks in the order of their start."""
        asked = {"flow_runs": {"id": {"any_": [flow_run]}}, "sort": "EXPECTED_START_TIME_ASC"}
        return [one["name"].rsplit("-", 1)[0] for one in self.ask("/task_runs/filter", asked)]

    def tasks(self, flow_run: str) -> dict[str, dict[str, Any]]:
        """The flow run's tasks by name, each with its state, and the names of those that it came `after`."""
        found = self.ask("/task_runs/filter", {"flow_runs": {"id": {"any_": [flow_run]}}})
        names = {one["id"]: one["name"] for one in found}
        before = {one["name"]: {names[i["id"]] for i in sum(one["task_inputs"].values(), [])} for one in found}
        return {one["name"]: {**one["state"], "after": before[one["name"]]} for one in found}

    def artifacts(self, flow_run: str) -> list[dict[str, Any]]:
        """The flow run's artifacts that have a key."""
        found = self.ask("/artifacts/filter", {"flow_runs": {"id": {"any_": [flow_run]}}})
        return [one for one in found if one["key"]]

    def logs(self, flow_run: str) -> str:
        """What the flow run has logged."""
        asked = {"logs": {"flow_run_id": {"any_": [flow_run]}}, "sort": "TIMESTAMP_ASC"}
        return "\n".join(line["message"] for line in self.ask("/logs/filter", asked))

    def _answer(self, method: str, path: str, body: bytes | None) -> Any:
        request = urllib.request.Request(
            self.url + path, data=body, headers={"content-type": "application/json"}, method=method
        )
        for again in (*[True] * 9, False):  # a busy sqlite makes the server answer 503, as its clients know
            try:
                with urllib.request.urlopen(request, timeout=20) as answer:
                    return json.loads(answer.read() or "null")
            except urllib.error.HTTPError as error:
                if error.code != 503 or not again:
                    raise
                time.sleep(1)

    def _healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=1):
                return True
        except OSError:
            return False


def make_database(folder: Path) -> None:
    """Leave in `folder` what a server makes at its first start."""
    folder.mkdir()
    server = Server(folder)
    server.start()
    server.stop()
    (folder / "server.log").unlink()


def wait(what: Callable[[], T | None], seconds: float = 90.0) -> T:
    """The first true answer of `what`."""
    end = time.monotonic() + seconds
    while not (answer := what()):
        assert time.monotonic() < end, f"did not happen within {seconds} s"
        time.sleep(0.2)
    return answer


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Worker:
    """A process worker of a pool, on the computer of `environment`."""

    def __init__(self, server: Server, environment: dict[str, str], log: Path, pool: str = "sojourn") -> None:
        command = [sys.executable, "-m", "prefect", "worker", "start", "--type", "process", "--pool", pool]
        variables = {**environment, "PREFECT_API_URL": server.url, "PREFECT_WORKER_QUERY_SECONDS": "1"}
        with log.open("ab") as output:
            self.process = subprocess.Popen(command, env=variables, stdout=output, stderr=output, cwd=log.parent)

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End it as its service manager would, or harder."""
        self.process.send_signal(number)
        self.process.wait(timeout=150)
