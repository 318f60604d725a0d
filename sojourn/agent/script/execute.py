"""One command for `sojourn exec`: kept within its time, its output within its size, nothing of it left after.

It runs below a process of its own, so that the agent, which reaps whatever ends below it,
need not know this command's processes from the script's. That process tells on standard
output how the command ended, as JSON.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from typing import BinaryIO

from sojourn.agent import files
from sojourn.agent.files import Json
from sojourn.agent.host.processes import (
    adopt_orphans,
    descendants,
    die_with_parent,
    exit_code,
    kill_all,
    processes,
    signal_name,
)

KEPT = 1 << 20  # of each stream, from its beginning
TIMED_OUT = 124  # as timeout(1) has it
NOT_FOUND, NOT_STARTED = 127, 126  # as the shell has it
LINGER_S = 0.5  # for what is still in a pipe that somebody holds


def execute(folder: str) -> int:
    """Carry out `request.json` of the folder; what is printed lies there as `out` and `err`."""
    die_with_parent()
    adopt_orphans()
    request = files.read(os.path.join(folder, "request.json")) or {}
    os.umask(request["umask"])
    json.dump(Command(folder, request["argv"], request["timeout_s"]).run(), sys.stdout)
    return 0


class Command:
    """A program with its arguments, and what came of it."""

    def __init__(self, folder: str, argv: list[str], timeout_s: float) -> None:
        self._folder = folder
        self._argv = argv
        self._timeout_s = timeout_s
        self._status: int | None = None
        self._printed = {"out": 0, "err": 0}

    def run(self) -> Json:
        """Start it, wait for it, end what is left of it."""
        started_at, until = time.time(), time.monotonic() + self._timeout_s
        pipe = subprocess.PIPE
        try:
            self._child = subprocess.Popen(
                self._argv,
                stdin=subprocess.DEVNULL,
                stdout=pipe,
                stderr=pipe,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )
        except OSError as error:
            code = NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_STARTED
            why = f"cannot start {self._argv[0]!r}: {error.strerror}"
            return {"exit_code": code, "message": why, "started_at": started_at, "ended_at": time.time()}
        self._relay(until)
        timed_out = self._reap() is None
        ended_at = time.time()
        self._end()
        code, name = (TIMED_OUT, None) if timed_out else _ended(self._status or 0)
        return {
            "exit_code": code,
            "signal": name,
            "message": f"it was ended after {self._timeout_s:g} s" if timed_out else None,
            "started_at": started_at,
            "ended_at": ended_at,
            "stdout_bytes": self._printed["out"],
            "stderr_bytes": self._printed["err"],
        }

    def _relay(self, until: float) -> None:
        """Keep the beginning of what it prints, until it has ended or its time is over."""
        streams = selectors.DefaultSelector()
        with contextlib.ExitStack() as stack:
            for name, pipe in (("out", self._child.stdout), ("err", self._child.stderr)):
                assert pipe is not None
                kept = stack.enter_context(open(os.path.join(self._folder, name), "wb"))
                streams.register(pipe, selectors.EVENT_READ, (name, kept))
            lingers = float("inf")
            while time.monotonic() < min(until, lingers):
                for key, _ in streams.select(0.05):
                    if not self._take(key.fd, *key.data):
                        streams.unregister(key.fileobj)
                if self._reap() is not None:
                    if not streams.get_map():
                        return
                    lingers = min(lingers, time.monotonic() + LINGER_S)

    def _take(self, pipe: int, name: str, kept: BinaryIO) -> bool:
        """Read on; False at the end. What is too much is read as well, so that the command does not block."""
        chunk = os.read(pipe, 1 << 16)
        kept.write(chunk[: max(0, KEPT - self._printed[name])])
        self._printed[name] += len(chunk)
        return bool(chunk)

    def _reap(self) -> int | None:
        """The command's wait status once it has ended; its orphans are ours to reap too."""
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    break
                if pid == self._child.pid:
                    self._status = status
                    self._child.returncode = 0  # ours to reap, not Popen's
        return self._status

    def _end(self) -> None:
        kill_all(lambda: descendants(processes()), self._reap)
        if self._reap() is None:  # on a host that does not show us our processes
            with contextlib.suppress(OSError):
                os.killpg(self._child.pid, signal.SIGKILL)


def _ended(status: int) -> tuple[int, str | None]:
    name = signal_name(os.WTERMSIG(status)) if os.WIFSIGNALED(status) else None
    return exit_code(status), name
