"""The local provider's machine: starts the agent, outlives everybody, leaves nothing alive.

It watches one machine directory, and holds `DIR/lock` for as long as it lives, so a
machine has at most one supervisor however often it is asked for. Its timer knows only
`boot.json`: the orchestrator, the terminal and the agent may all be dead. What the agent
starts lives in a pid namespace where the host allows one, and comes to us as orphans
(subreaper) where it does not. It is to weigh little, so it imports little.
"""

from __future__ import annotations

import os
import signal
import sys
import time

from sojourn.agent import files
from sojourn.agent.errors import say
from sojourn.agent.files import Json
from sojourn.agent.host.clock import Deadline
from sojourn.agent.host.namespace import POLL_S, catch_signals, namespace, spawn, wait_for_signal
from sojourn.agent.host.processes import (
    LINUX,
    Process,
    adopt_orphans,
    below,
    boot_id,
    exit_code,
    kill_all,
    marks,
    process,
    processes,
    send,
)
from sojourn.agent.results.kept import KEPT, keep

BOOT, LOCK, STATE, ENDED, WORK = "boot.json", "lock", "state.json", "ended.json", "work"
SELDOM_S = 0.5  # between two looks at what does not wake us
RELEASE = "release.json"  # lies beside the machines of a lease: one mark ends them all


def supervise(program: str, directory: str, agent: str | None = None, isolation: str | None = None) -> int:
    """Be the supervisor of the machine in `directory`, unless it has one; `agent` stands in for `program run`."""
    os.chdir("/")
    lock = files.take_lock(os.path.join(directory, LOCK))
    if lock is not None:
        Supervisor(program, directory, agent or program, isolation, lock).run()
    return 0


class Supervisor:
    """One machine, from its birth to its tombstone."""

    def __init__(self, program: str, directory: str, agent: str, isolation: str | None, lock: int) -> None:
        self.program = program
        self.directory = directory
        self.agent = agent
        self.isolation = isolation
        self.lock = lock
        self.boot = files.read(self._path(BOOT)) or {}
        self.ends_at = self.boot["deadline_at"] + self.boot["grace_s"]
        self.deadline = Deadline(self.ends_at)
        self.prefix: list[str] = []
        self.child = 0
        self.exit_code: int | None = None
        self.terminating = False
        self.state: Json = {}

    def run(self) -> None:
        if os.path.exists(self._path(ENDED)):
            return
        catch_signals()
        try:
            by = self.refusal() or self.live()
        except Exception:
            # Whatever we do not understand (a full disk, say) must not leave the agent without a watcher.
            import traceback

            say(traceback.format_exc())
            by = "supervisor error"
        self.end(by)

    def refusal(self) -> str | None:
        """Why nothing may start here, as the layer that ended it."""
        if os.path.exists(self._path(STATE)):
            return "killed"  # a supervisor was here before us and left no tombstone
        if self.released():
            return "release"
        return "supervisor timer" if self.overdue() else None

    def live(self) -> str:
        self.state = {**who_am_i(), "created_at": time.time(), "deadline_at": self.ends_at}
        # Written before the start: an agent without a record could be started twice.
        files.write(self._path(STATE), self.state)
        adopt_orphans()
        self.start()
        return self.watch()

    def start(self) -> None:
        os.makedirs(self._path(WORK), exist_ok=True)
        self.prefix = namespace(self.isolation)
        python = [sys.executable, "-I", "-S"]
        command = [*python, self.agent, "run", "--boot", self._path(BOOT)]
        command += ["--node", os.path.basename(self.directory), "--scratch", self._path(WORK)]
        command += ["--address", "127.0.0.1"]
        if self.prefix:
            command = [*self.prefix, *python, self.program, "init", *command]
        # A SIGTERM that comes before init can catch it must wait for it, not be lost.
        self.child = spawn(command, self._path(WORK), self._path("agent.log"), blocked=bool(self.prefix))
        self.state.update(agent_pid=self.child, isolation="namespace" if self.prefix else "subreaper")
        self.note(STATE, self.state)

    def watch(self) -> str:
        """Wait for the first reason to end; the layer it comes from."""
        begun = time.monotonic()
        while True:
            self.reap()
            if self.exit_code is not None:
                return "agent timer" if time.time() >= self.boot["deadline_at"] else "exit"
            if self.released():
                return "release"
            if self.overdue():
                return "supervisor timer"
            if self.vanished():
                return "vanished"
            # The agent's end wakes us; what else ends a script that has run for long may be noticed a little later.
            seldom = min(SELDOM_S, (time.monotonic() - begun) / 100) if LINUX else POLL_S
            if wait_for_signal(max(POLL_S, seldom)) == signal.SIGTERM:
                self.terminating = True
            if self.terminating:
                self.terminating = not self.pass_on(signal.SIGTERM)

    def end(self, by: str) -> None:
        """Kill everything, remove the scratch directory, write the tombstone: what may fail comes last."""
        began = time.monotonic()
        killed = kill_all(self.family, self.reap)
        kill_ms = round((time.monotonic() - began) * 1000, 1)
        self.reap()
        if self.state:
            self.note(STATE, {**self.state, "ending_at": time.time()})
        doubtful = by != "release" and self.exit_code != 0
        kept = keep(self.directory, self._path(WORK)) if doubtful or os.path.isdir(self._path(KEPT)) else None
        files.remove(self._path(WORK))
        tombstone = {"at": time.time(), "by": by, "agent_exit_code": self.exit_code, "kept": kept}
        self.note(ENDED, {**tombstone, "leftovers": killed, "kill_ms": kill_ms})

    def note(self, name: str, value: Json) -> None:
        """Write what can be written: a full disk or a vanished directory must not keep us from ending."""
        try:
            if not self.vanished():
                files.write(self._path(name), value)
        except OSError as error:
            say(f"{name}: {error}")

    def family(self) -> list[Process]:
        """Every process below us, and every other one that carries our mark."""
        table = processes()
        ours = {os.getpid(), *(mark.process.pid for mark in marks(table) if mark.directory == self.directory)}
        return [p for p in below(table, ours) if p.pid != os.getpid()]

    def reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self.child:
                self.exit_code = exit_code(status)

    def pass_on(self, number: int) -> bool:
        """Signal the agent; False while it is not there yet."""
        if not self.prefix:
            os.kill(self.child, number)
            return True
        # In a namespace our child is unshare, and its child is the init that passes it on.
        targets = [p for p in processes() if p.parent == self.child and not p.dead]
        for target in targets:
            send(target, number)
        return bool(targets)

    def released(self) -> bool:
        return os.path.exists(os.path.join(os.path.dirname(self.directory), RELEASE))

    def overdue(self) -> bool:
        return self.deadline.left() <= 0

    def vanished(self) -> bool:
        """Whether somebody removed the directory under us, or put another in its place."""
        try:
            return not os.path.samestat(os.stat(self._path(LOCK)), os.fstat(self.lock))
        except OSError:
            return True

    def _path(self, name: str) -> str:
        return os.path.join(self.directory, name)


def who_am_i() -> Json:
    me = process(os.getpid())
    return {
        "pid": os.getpid(),
        "start_time": me.start if me else "",
        "boot_id": boot_id(),
        "host": os.uname().nodename,
    }
