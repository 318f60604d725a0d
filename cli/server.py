"""Finds a Prefect server for a run, starting one in the background where none is configured.

What we start is written down with its process id and start time, so that `sojourn ui --stop`
ends that very process and never a server that somebody else started. Prefect's own
`server start --background` is not used: its pid file survives a crash or a reboot, and
then no server is ever started again.

A server of ours takes nobody but its user: it wants a password, which lies in a file that only
the user may read, and its pages are the only ones that a browser lets ask it. Whose a server
is that nobody configured is asked of the system before anything is said to it.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shlex
import signal
import stat
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from http.client import HTTPException
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from cli.listeners import is_free, listener
from cli.refusals import readable_settings, server_refusal
from sojourn.agent import files
from sojourn.agent.host import processes
from sojourn.errors import SojournError, TransientError
from sojourn.run.runs import data_home, provide_home
from sojourn.secrets import surroundings

if TYPE_CHECKING:
    from prefect.settings import Settings

PROBE_S = 1.0
BUSY_S = 8.0  # what a server gets that has taken the connection
START_LIMIT_S = 15.0  # what a run waits; the first start of all makes the database and may take longer
STOP_LIMIT_S = 15.0
# How often a server of ours looks through its database for what may have become of runs: by default some of these
# every five seconds, which a script beside it pays. Runs that are due begin as soon as ever.
PACES = {
    "services.late_runs.loop_seconds": "30",
    "services.pause_expirations.loop_seconds": "30",
    "services.cleanup_reconciler.loop_seconds": "30",
    "services.scheduler.recent_deployments_loop_seconds": "15",
    "services.foreman.loop_seconds": "30",
    "services.cancellation_cleanup.loop_seconds": "30",
    "services.repossessor.loop_seconds": "30",
    "events.proactive_granularity": "PT15S",
}
PORTS = 50  # how many after the usual one are tried where others have it
_RECORD = {"pid": int, "start_time": str, "boot_id": str, "api": str}
_LOCAL = ("127.0.0.1", "localhost")


@dataclass(frozen=True)
class Address:
    """Where runs are recorded, whether the user chose the place, and the login that a server of ours wants."""

    api: str
    ui: str
    configured: bool
    login: str | None = field(default=None, repr=False)
    word: str | None = field(default=None, compare=False)  # what its user should know

    @property
    def port(self) -> int | None:
        """Where it listens, if that is a number."""
        try:
            return urlsplit(self.api).port
        except ValueError:
            return None


def find_server(limit_s: float = START_LIMIT_S) -> Address:
    """An API that takes us: the configured one, a local one, or one started now.

    One that is not healthy within `limit_s` goes on starting, and the next command finds it.
    Raises the SojournError that says why there is none, or why it refuses us.
    """
    return seek_server(limit_s)()


def seek_server(limit_s: float = START_LIMIT_S) -> Callable[[], Address]:
    """Begin what `find_server` does, and leave the waiting to what is returned."""
    address, home = find_address(), data_home()
    if address.configured or _is_here(address):
        return lambda: _accepted(address)
    if past_proxy := _past_proxy(address):
        raise past_proxy
    end = time.monotonic() + limit_s
    started = _start(address, home)

    def wait() -> Address:
        _within(end - time.monotonic(), lambda: _is_here(started) or _ours(home) is None)
        if not _is_here(started):
            raise _absence(home)
        return _accepted(started)

    return wait


def find_address() -> Address:
    """The API and UI of the user's settings, or of this host. Raises SpecError for settings that are broken."""
    with readable_settings():
        from prefect.settings import get_current_settings

        settings = get_current_settings()
        home = data_home()
        if settings.api.url:
            ui = settings.ui_url or settings.api.url.removesuffix("/api")
            own = _login(home) if not settings.api.auth_string and _names_ours(settings.api.url, home) else None
            return Address(settings.api.url, ui, configured=True, login=own)
        return _address_of_ours(home) or _address_here(settings.server.api.port)


def running_server() -> Address | None:
    """An API that answers now, if any; starts nothing. Raises SojournError for one that refuses us."""
    address = find_address()
    return _accepted(address) if address.configured or _is_here(address) else None


def connected(address: Address, more: dict[Any, Any] | None = None) -> AbstractContextManager[object]:
    """Prefect's settings under which its client talks to this server."""
    from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

    login = {PREFECT_API_AUTH_STRING: address.login} if address.login else {}
    return temporary_settings({PREFECT_API_URL: address.api, **login, **(more or {})})


def describe_server() -> tuple[Literal["good", "weak", "missing"], str, str]:
    """How it stands with the server, a sentence about it, and what mends it. Starts nothing."""
    try:
        address = running_server()
    except SojournError as error:
        return "weak" if isinstance(error, TransientError) else "missing", error.message, error.hint or "sojourn ui"
    if address is not None:
        return ("weak" if address.word else "good"), address.word or f"a server answers at {address.api}", "sojourn ui"
    if _ours(home := data_home()):
        return "weak", _absence(home).message, "sojourn ui"
    return "weak", "no server runs; the first run starts one in the background", "sojourn ui"


def password_file() -> Path:
    """What the pages of a server of ours ask for."""
    return data_home() / "prefect-server.password"


def _accepted(address: Address) -> Address:
    refused = _past_proxy(address) or server_refusal(address.api, address.login)
    if refused:
        raise refused
    return address


def _past_proxy(address: Address) -> TransientError | None:
    """A server of this host is asked by no proxy, which would read the password, and lead to its own 127.0.0.1."""
    ways = urllib.request.getproxies()
    if address.configured or not {"http", "all"} & ways.keys() or urllib.request.proxy_bypass("127.0.0.1"):
        return None
    said = f"your settings send what is meant for {address.api} to a proxy"
    return TransientError(said, hint="export NO_PROXY=127.0.0.1,localhost no_proxy=127.0.0.1,localhost")


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


# --- on this host -------------------------------------------------------------------------


def _address_of_ours(home: Path) -> Address | None:
    """Where the server stands that we started."""
    written = _written(home) if _ours(home) else None
    if written is None:
        return None
    api = written["api"]
    word = None
    if not written.get("locked"):
        word = f"the Prefect server at {api} was started by an earlier Sojourn and takes everybody on this host; "
        word += "end it, and the next run starts one with a password: sojourn ui --stop"
    return Address(api, api.removesuffix("/api"), configured=False, login=_login(home), word=word)


def _address_here(usual: int) -> Address:
    """Where a server of this user's stands, or where ours will: no other program's port."""
    taken: object = None
    for port in range(usual, min(usual + PORTS, 65536)):
        there, local = listener(port), f"http://127.0.0.1:{port}"
        if port == usual and there is not None and there.is_mine and _is_prefect(f"{local}/api"):
            word = _forgotten(f"{local}/api")
            return Address(f"{local}/api", local, configured=False, login=_password() if word else None, word=word)
        if there is None and is_free(port):
            word = f"port {usual} is taken by {taken}: Sojourn's Prefect server is at {local}" if taken else None
            return Address(f"{local}/api", local, configured=False, word=word)
        taken = taken or there or "a connection of another program"
    hint = "name another: export PREFECT_SERVER_API_PORT=PORT"
    raise TransientError(f"no port from {usual} on is free for a Prefect server", hint=hint)


def _forgotten(api: str) -> str | None:
    """What is said of a server of this user's that we may have started, where what we wrote of it is no record."""
    file = _record(data_home())
    if _written(data_home()) is not None or not os.path.lexists(file):
        return None
    said = f"{file} is damaged, so `sojourn ui --stop` does not know the Prefect server at {api}"
    return f"{said}: end it yourself, or forget it: rm {shlex.quote(str(file))}"


def _names_ours(api: str, home: Path) -> bool:
    """Whether a configured address is that of the server that we started."""
    ours, pid = _address_of_ours(home), _ours(home)
    try:
        place = urlsplit(api)
        if ours is None or pid is None or place.hostname not in _LOCAL or place.port != ours.port:
            return False
    except ValueError:
        return False
    there = listener(ours.port) if ours.port else None
    return there is not None and there.is_held_by(pid)


def _is_here(address: Address) -> bool:
    """Whether a Prefect server of this user's answers there."""
    there = listener(address.port) if address.port else None
    return there is not None and there.is_mine and _is_prefect(address.api)


def _is_prefect(url: str, patience_s: float = PROBE_S) -> bool:
    """Whether its health is told there as Prefect tells it; one that is busy is not away."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(f"{url}/health", timeout=patience_s) as answer:
            return answer.status == 200 and isinstance(json.loads(answer.read(1000)), bool | str)
    except TimeoutError:  # it took the connection
        return patience_s >= BUSY_S or _is_prefect(url, BUSY_S)
    except (OSError, ValueError, HTTPException):
        return False


def _record(home: Path) -> Path:
    return home / "prefect-server.json"


def _written(home: Path) -> dict[str, Any] | None:
    """What we wrote of the server that we started; None without it, and for what is no such record."""
    found = files.read(str(_record(home))) or {}
    whole = all(isinstance(found.get(name), kind) for name, kind in _RECORD.items())
    return found if whole else None


def _ours(home: Path) -> int | None:
    """The process id of the server that we started, while that very process lives."""
    written = _written(home)
    if written is None or written["boot_id"] != processes.boot_id():
        return None
    process = processes.process(written["pid"])
    return process.pid if process and process.start == written["start_time"] else None


def _start(address: Address, home: Path) -> Address:
    """Start a server that stays for the runs to come, unless one was started already; where it stands."""
    with _locked(home):
        there = _address_of_ours(home)
        if there is not None:
            return there
        login = _provide_login()
        _close_database()
        pid = _spawn(address, login, log_file())
        process = processes.process(pid)
        if process is not None:
            written = {"pid": pid, "start_time": process.start, "boot_id": processes.boot_id(), "api": address.api}
            files.write(str(_record(home)), {**written, "locked": True})
        return replace(address, login=login)


def _login(home: Path) -> str | None:
    """What the server that we started wants to hear; None for one of an earlier version, which asks nobody."""
    return _password() if (_written(home) or {}).get("locked") else None


def _password() -> str | None:
    try:
        return password_file().read_text(encoding="utf-8").strip() or None
    except (OSError, ValueError):
        return None


def _provide_login() -> str:
    """The user's own choice, or the one in the file, which is made anew where others could have read it."""
    chosen = _settings().server.api.auth_string
    file = password_file()
    known = _password() if _is_private(file) else None
    login = chosen.get_secret_value() if chosen else known or f"sojourn:{secrets.token_urlsafe(32)}"
    if login != known:
        file.unlink(missing_ok=True)
        with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as opened:
            opened.write(f"{login}\n")
    return login


def _is_private(file: Path) -> bool:
    try:
        told = file.lstat()
    except OSError:
        return False
    return stat.S_ISREG(told.st_mode) and told.st_uid == os.geteuid() and not told.st_mode & 0o077


def _spawn(address: Address, login: str, log: Path) -> int:
    # Started at / because `python -m` puts the current directory before Prefect's own modules. The
    # shell is the first half of a double fork: the server belongs to nobody's terminal.
    port = str(address.port)
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", port]
    with open(os.open(log, os.O_WRONLY | os.O_CREAT, 0o600), "w", encoding="utf-8") as file:
        os.fchmod(file.fileno(), 0o600)
    started = subprocess.run(
        ["/bin/sh", "-c", 'log=$1; shift; "$@" >>"$log" 2>&1 & echo $!', "sh", str(log), *command],
        cwd="/",
        env=_environment(address, login),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        umask=0o077,
        check=True,
    )
    return int(started.stdout)


def _close_database() -> None:
    """What an earlier server has made, under a wider umask, holds parameters and log lines of every run."""
    for file in Path(_settings().home).expanduser().glob("prefect.db*"):
        with suppress(OSError):
            if stat.S_ISREG(file.lstat().st_mode) and file.lstat().st_uid == os.geteuid():
                file.chmod(0o600)


def _environment(address: Address, login: str) -> dict[str, str]:
    """All that the server is told."""
    return {**_defaults(address), **surroundings.of_server(), "PREFECT_SERVER_API_AUTH_STRING": login}


def _defaults(address: Address) -> dict[str, str]:
    """Settings of a server of ours, where the user has not chosen: nobody's pages but its own may ask it."""
    defaults = {
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        # Kept in memory, a concurrency slot is lost with a restart, and its run is crashed minutes later.
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
    }
    chosen = _settings().server.api.model_fields_set
    if "csrf_protection_enabled" not in chosen:
        defaults["PREFECT_SERVER_CSRF_PROTECTION_ENABLED"] = "true"
    if "cors_allowed_origins" not in chosen:
        origins = ",".join(f"http://{host}:{address.port}" for host in _LOCAL)
        defaults["PREFECT_SERVER_CORS_ALLOWED_ORIGINS"] = origins
    for path, pace in PACES.items():
        group, _, field = path.rpartition(".")
        with suppress(AttributeError):  # another version of Prefect has other ones
            if field not in attrgetter(group)(_settings().server).model_fields_set:
                defaults[f"PREFECT_SERVER_{path.replace('.', '_').upper()}"] = pace
    return defaults


def _settings() -> Settings:
    with readable_settings():
        from prefect.settings import get_current_settings

        return get_current_settings()


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
    provide_home(home)
    with (home / "prefect-server.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
