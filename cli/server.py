"""Finds a Prefect server for a run, starting one in the background where none is configured.

What we start is written down with its process id and start time, so that `sojourn ui --stop`
ends that very process and never a server that somebody else started. Prefect's own
`server start --background` is not used: its pid file survives a crash or a reboot, and
then no server is ever started again.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Literal

from cli.refusals import readable_settings, server_refusal
from sojourn.agent import files, processes
from sojourn.errors import SojournError, TransientError
from sojourn.runs import data_home

PROBE_S = 1.0
BUSY_S = 8.0  # what a server gets that has taken the connection
START_LIMIT_S = 15.0  # what a run waits; the first start of all makes the database and may take longer
STOP_LIMIT_S = 15.0


@dataclass(frozen=True)
class Address:
    """Where runs are recorded, and whether the user chose the place."""

    api: str
    ui: str
    configured: bool


def find_server(limit_s: float = START_LIMIT_S) -> str:
    """The URL of an API that takes us: the configured one, a local one, or one started now.

    One that is not healthy within `limit_s` goes on starting, and the next command finds it.
    Raises the SojournError that says why there is none, or why it refuses us.
    """
    return seek_server(limit_s)()


def seek_server(limit_s: float = START_LIMIT_S) -> Callable[[], str]:
    """Begin what `find_server` does, and leave the waiting to what is returned."""
    address, home = find_address(), data_home()
    if address.configured or _healthy(address.api):
        return lambda: _accepted(address.api)
    end = time.monotonic() + limit_s
    _start(address.api, home)

    def wait() -> str:
        _within(end - time.monotonic(), lambda: _healthy(address.api) or _ours(home) is None)
        if not _healthy(address.api):
            raise _absence(home)
        return _accepted(address.api)

    return wait


def find_address() -> Address:
    """The API and UI of the user's settings, or of this host. Raises SpecError for settings that are broken."""
    with readable_settings():
        from prefect.settings import get_current_settings

        settings = get_current_settings()
        local = f"http://127.0.0.1:{settings.server.api.port}"
        if settings.api.url:
            ui = settings.ui_url or settings.api.url.removesuffix("/api")
            return Address(settings.api.url, ui, configured=True)
    return Address(f"{local}/api", local, configured=False)


def running_server() -> str | None:
    """The URL of an API that answers now, if any; starts nothing. Raises SojournError for one that refuses us."""
    address = find_address()
    return _accepted(address.api) if address.configured or _healthy(address.api) else None


def describe_server() -> tuple[Literal["good", "weak", "missing"], str, str]:
    """How it stands with the server, a sentence about it, and what mends it. Starts nothing."""
    try:
        api = running_server()
    except SojournError as error:
        return "weak" if isinstance(error, TransientError) else "missing", error.message, error.hint or "sojourn ui"
    if api is not None:
        return "good", f"a server answers at {api}", "sojourn ui"
    if _ours(home := data_home()):
        return "weak", _absence(home).message, "sojourn ui"
    return "weak", "no server runs; the first run starts one in the background", "sojourn ui"


def _accepted(api: str) -> str:
    if refused := server_refusal(api):
        raise refused
    return api


def _absence(home: Path) -> TransientError:
    """Why there is no server on this host."""
    if _ours(home):
        return TransientError("the Prefect server has been started and does not answer yet", hint="sojourn ui")
    return TransientError("a Prefect server could not be started", hint=f"see why: tail {log_file()}")


def stop_server() -> int | None:
    """End the server that we started; its process id, or None when none of ours runs."""
    home = data_home()
    with _locked(home):
        pid = _ours(home)
        if pid is not None:
            group = os.getpgid(pid)
            os.kill(pid, signal.SIGTERM)
            if not _within(STOP_LIMIT_S, lambda: _ours(home) is None):
                os.killpg(group, signal.SIGKILL)
        _record(home).unlink(missing_ok=True)
        return pid


def log_file() -> Path:
    """What the server that we started has printed."""
    return data_home() / "prefect-server.log"


def _record(home: Path) -> Path:
    return home / "prefect-server.json"


def _ours(home: Path) -> int | None:
    """The process id of the server that we started, while that very process lives."""
    written = files.read(str(_record(home)))
    if written is None or written["boot_id"] != processes.boot_id():
        return None
    process = processes.process(written["pid"])
    return process.pid if process and process.start == written["start_time"] else None


def _start(api: str, home: Path) -> None:
    """Start a server that stays for the runs to come, unless one was started already."""
    with _locked(home):
        if _ours(home) is not None or _healthy(api):
            return
        pid = _spawn(api.removesuffix("/api").rpartition(":")[2], log_file())
        process = processes.process(pid)
        if process is not None:
            written = {"pid": pid, "start_time": process.start, "boot_id": processes.boot_id(), "api": api}
            files.write(str(_record(home)), written)


def _spawn(port: str, log: Path) -> int:
    # Started at / because `python -m` puts the current directory before Prefect's own modules. The
    # shell is the first half of a double fork: the server belongs to nobody's terminal.
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", port]
    settings = {
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        # Kept in memory, a concurrency slot is lost with a restart, and its run is crashed minutes later.
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
    }
    started = subprocess.run(
        ["/bin/sh", "-c", 'log=$1; shift; "$@" >>"$log" 2>&1 & echo $!', "sh", str(log), *command],
        cwd="/",
        env={**settings, **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"}},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        check=True,
    )
    return int(started.stdout)


def _healthy(url: str, patience_s: float = PROBE_S) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=patience_s) as answer:
            return bool(answer.status == 200)
    except TimeoutError:  # it took the connection, so it is busy and not away
        return patience_s < BUSY_S and _healthy(url, BUSY_S)
    except (OSError, ValueError, HTTPException):
        return False


def _within(limit_s: float, reached: Callable[[], bool]) -> bool:
    end = time.monotonic() + limit_s
    while not reached():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


@contextmanager
def _locked(home: Path) -> Iterator[None]:
    """One command at a time starts or stops the server."""
    home.mkdir(parents=True, exist_ok=True)
    with (home / "prefect-server.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
