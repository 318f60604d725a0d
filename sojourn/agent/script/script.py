"""The user's command as a tree of processes: started, waited for, asked to end, ended."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable

from sojourn.agent import files
from sojourn.agent.errors import Refused, say
from sojourn.agent.files import Json
from sojourn.agent.host.processes import (
    MARK,
    MARK_DIRECTORY,
    Process,
    ancestry,
    descendants,
    exit_code,
    kill_all,
    marks,
    own_proc,
    process,
    processes,
    signal_name,
)
from sojourn.agent.host.procfs import catchers, catches, dump_no_core

END_LIMIT_S = 10.0
PID = re.compile(r"[1-9][0-9]{0,8}")
TOLD = 16  # processes that say where they are; more would bury what matters


class Script:
    """The user's command and everything that came of it."""

    def __init__(self, argv: list[str], cwd: str, env: dict[str, str], output: int, records: str, umask: int) -> None:
        self._mark = (env[MARK], env.get(MARK_DIRECTORY, ""))
        self._records = records
        self.cwd = cwd
        self.umask = umask
        self.status: int | None = None
        self.alive_at = time.time()  # when its main process was last seen alive, by nobody's doing
        self.killed = False
        self.asked = False  # to end, before it did by itself
        self.aborted = False  # by us, for its stacks
        ours = os.umask(umask)
        try:
            self._process = subprocess.Popen(
                argv, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
        except OSError as error:
            raise Refused(f"cannot start {argv[0]!r}: {error.strerror}") from error
        finally:
            os.umask(ours)
        self.started_at = time.time()

    def poll(self) -> int | None:
        """The main process's exit status once it has ended; whatever else ended is reaped."""
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    break
                if pid == self._process.pid:
                    self.status = status
                    self._process.returncode = 0  # ours to reap, not Popen's
        if self.status is None and not self.killed:
            self.alive_at = time.time()
        return self.status

    def wait(self, seconds: float, over: Callable[[], bool] = lambda: False) -> None:
        """Until the main process has ended, or `over` says so, or the time is up."""
        until = time.monotonic() + seconds
        while self.poll() is None and not over() and time.monotonic() < until:
            time.sleep(0.02)

    def ended(self) -> tuple[int | None, str | None]:
        """The main process's exit code as the shell counts it, and the signal's name; None while it lives."""
        if self.status is None:
            return None, None
        name = signal_name(os.WTERMSIG(self.status)) if os.WIFSIGNALED(self.status) else None
        return exit_code(self.status), name

    def ranks(self) -> list[Json]:
        """How the ranks ended that have, the first first."""
        ended = [files.read(os.path.join(self._records, name)) for name in _names(self._records, ".json")]
        return sorted((entry for entry in ended if entry), key=lambda entry: (entry["at"], entry["rank"]))

    def pids(self) -> list[int]:
        """The processes that are left of it."""
        return sorted(one.pid for one in self._left())

    def tail(self, rank: int) -> bytes:
        """The last bytes that a rank printed itself."""
        try:
            with open(os.path.join(self._records, f"{rank}.tail"), "rb") as file:
                return file.read()
        except OSError:
            return b""

    def stop(self, grace: float, stacks_s: float = 0.0) -> None:
        """Ask those who listen, wait for them, then end everything; what hangs gets `stacks_s` to say where."""
        self.asked = self.poll() is None
        asked = catchers(self._roots())
        say(f"stopping: SIGTERM to {asked or 'nobody, none of the script handles it'}")
        if asked:
            _signal(asked, signal.SIGTERM)
            self.wait(grace, lambda: not any(map(_alive, asked)))
            self.wait(1.0)
        if self.poll() is None and asked and catches(self._process.pid):
            _signal([self._process.pid], signal.SIGTERM)
            self.wait(min(1.0, grace))
        if stacks_s and self.poll() is None:
            self._tell_stacks(stacks_s)
        self.end()

    def _tell_stacks(self, seconds: float) -> None:
        """End the ranks in the way that makes Python print what each of its threads does, see PYTHONFAULTHANDLER."""
        ranks = [pid for pid in self._roots() if pid != self._process.pid]
        hung = [pid for pid in ranks or self.pids() if catches(pid, signal.SIGABRT)][:TOLD]
        if not hung:
            return
        say(f"SIGABRT to {hung}, to see where they are")
        self.killed = self.aborted = True
        for pid in hung:
            dump_no_core(pid)
        _signal(hung, signal.SIGABRT)
        self.wait(seconds, lambda: not any(map(_alive, hung)))

    def _roots(self) -> list[int]:
        """The ranks below torchrun, else what was started itself."""
        ours = {p.pid for p in descendants(processes())}
        names = [name[: -len(".pid")] for name in _names(self._records, ".pid")]
        noted = [int(name) for name in names if PID.fullmatch(name)]  # the script may write there too
        # A rank that has ended left a number that may be a stranger's by now.
        return [pid for pid in noted if pid in ours or not own_proc()] or [self._process.pid]

    def end(self) -> None:
        """SIGKILL to the whole tree, stopped first so that none forks away, until none is left."""
        self.killed = self.killed or self.poll() is None
        kill_all(self._left, self.poll, END_LIMIT_S)
        if self.poll() is None:  # on a host that does not show us our processes
            with contextlib.suppress(OSError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self.wait(END_LIMIT_S)
        left = [p.pid for p in self._left()]
        if left or self.status is None:
            say(f"could not end {left or [self._process.pid]}")

    def _left(self) -> list[Process]:
        """All below us; when none is, those that carry the machine's mark and are not above us."""
        table = processes()
        above = ancestry(table)
        carriers = (mark.process for mark in marks(table) if (mark.machine, mark.directory) == self._mark)
        return descendants(table) or [p for p in carriers if p.pid not in above]


def _alive(pid: int) -> bool:
    return process(pid) is not None if own_proc() else True


def _signal(pids: list[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(OSError):
            os.kill(pid, number)


def _names(folder: str, ending: str) -> list[str]:
    try:
        return [name for name in os.listdir(folder) if name.endswith(ending)]
    except OSError:
        return []
