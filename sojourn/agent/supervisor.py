"""The local provider's machine: starts the agent, outlives everybody, leaves nothing alive.

`python3 -I supervisor.py DIR --agent AGENT.py` watches one machine directory. It holds
`DIR/lock` for as long as it lives, so a machine has at most one supervisor however often
it is asked for. Its timer knows only `boot.json`: the orchestrator, the terminal and the
agent may all be dead. What the agent starts lives in a pid namespace where the host
allows one, and comes to us as orphans (subreaper) where it does not.

Standard library only, Python 3.8 or newer, few imports: it is to weigh little.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import signal
import stat
import sys
import time
from typing import Any, Callable, Dict, Iterable, NamedTuple

LINUX = sys.platform == "linux"
POLL_S = 0.03
KILL_LIMIT_S = 10.0
PROBE_S = 2.0

# Who carries these in its environment belongs to a machine; the directory tells apart two
# data directories of one user.
MARK = "SOJOURN_MACHINE"
MARK_DIRECTORY = "SOJOURN_MACHINE_DIR"

BOOT, LOCK, STATE, ENDED, WORK = "boot.json", "lock", "state.json", "ended.json", "work"
RELEASE = "release.json"  # lies beside the machines of a lease: one mark ends them all

# linux/prctl.h
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36

Json = Dict[str, Any]


def main(arguments: list[str]) -> int:
    if arguments[0] == "init":
        return init(arguments[1:])
    directory, _, agent = arguments[:3]
    isolation = arguments[4] if len(arguments) > 3 else None
    os.chdir("/")
    lock = take_lock(directory)
    if lock is None:
        return 0
    Supervisor(directory, agent, isolation, lock).run()
    return 0


class Supervisor:
    """One machine, from its birth to its tombstone."""

    def __init__(self, directory: str, agent: str, isolation: str | None, lock: int) -> None:
        self.directory = directory
        self.agent = agent
        self.isolation = isolation
        self.lock = lock
        self.boot = read(self._path(BOOT)) or {}
        self.deadline = self.boot["deadline_at"] + self.boot["grace_s"]
        # Two clocks, because the wall clock can be set back; the earlier one wins.
        self.uptime_limit = uptime() + self.deadline - time.time()
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
            sys.excepthook(*sys.exc_info())
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
        self.state = {**who_am_i(), "created_at": time.time(), "deadline_at": self.deadline}
        # Written before the start: an agent without a record could be started twice.
        write(self._path(STATE), self.state)
        prctl(PR_SET_CHILD_SUBREAPER, 1)
        self.start()
        return self.watch()

    def start(self) -> None:
        os.makedirs(self._path(WORK), exist_ok=True)
        self.prefix = namespace(self.isolation)
        command = [sys.executable, "-I", self.agent, "run", "--boot", self._path(BOOT)]
        command += ["--node", os.path.basename(self.directory), "--scratch", self._path(WORK)]
        command += ["--address", "127.0.0.1"]
        if self.prefix:
            command = [*self.prefix, sys.executable, "-I", "-S", os.path.abspath(__file__), "init", *command]
        # A SIGTERM that comes before init can catch it must wait for it, not be lost.
        self.child = spawn(command, self._path(WORK), self._path("agent.log"), blocked=bool(self.prefix))
        self.state.update(agent_pid=self.child, isolation="namespace" if self.prefix else "subreaper")
        self.note(STATE, self.state)

    def watch(self) -> str:
        """Wait for the first reason to end; the layer it comes from."""
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
            if wait_for_signal(POLL_S) == signal.SIGTERM:
                self.terminating = True
            if self.terminating:
                self.terminating = not self.pass_on(signal.SIGTERM)

    def end(self, by: str) -> None:
        """Kill everything, remove the scratch directory, write the tombstone."""
        began = time.monotonic()
        if self.state:
            self.note(STATE, {**self.state, "ending_at": time.time()})
        killed = kill_all(self.family, self.reap)
        kill_ms = round((time.monotonic() - began) * 1000, 1)
        self.reap()
        remove(self._path(WORK))
        tombstone = {"at": time.time(), "by": by, "agent_exit_code": self.exit_code}
        self.note(ENDED, {**tombstone, "leftovers": killed, "kill_ms": kill_ms})

    def note(self, name: str, value: Json) -> None:
        """Write what can be written: a full disk or a vanished directory must not keep us from ending."""
        try:
            if not self.vanished():
                write(self._path(name), value)
        except OSError as error:
            print(f"{name}: {error}", file=sys.stderr)

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
        # In a namespace our child is unshare, and its child is the init that passes it on.
        targets = [p.pid for p in processes() if p.parent == self.child] if self.prefix else [self.child]
        for pid in targets:
            os.kill(pid, number)
        return bool(targets)

    def released(self) -> bool:
        return os.path.exists(os.path.join(os.path.dirname(self.directory), RELEASE))

    def overdue(self) -> bool:
        return bool(time.time() >= self.deadline) or uptime() >= self.uptime_limit

    def vanished(self) -> bool:
        """Whether somebody removed the directory under us, or put another in its place."""
        try:
            return not os.path.samestat(os.stat(self._path(LOCK)), os.fstat(self.lock))
        except OSError:
            return True

    def _path(self, name: str) -> str:
        return os.path.join(self.directory, name)


# --- the namespace ----------------------------------------------------------------------


def namespace(isolation: str | None) -> list[str]:
    """The command that puts its arguments into a pid namespace of their own; empty where none can be had."""
    if isolation == "subreaper" or not LINUX:
        return []
    pid = ["unshare", "--pid", "--fork", "--kill-child"]
    # As an ordinary user a pid namespace needs a user namespace, which a distribution or a
    # container may forbid. https://man7.org/linux/man-pages/man7/user_namespaces.7.html
    user = ["unshare", "--user", "--map-current-user", *pid[1:], "--mount-proc"]
    for prefix in [[*pid, "--mount-proc"], pid, user] if os.geteuid() == 0 else [user]:
        if succeeds([*prefix, "true"], PROBE_S):
            return prefix
    if isolation == "namespace":
        raise OSError("this host allows no pid namespace")
    return []


def init(command: list[str]) -> int:
    """Process 1 of the namespace: starts the agent, reaps orphans, exits with the agent's code."""
    catch_signals()
    child = spawn(command)
    while True:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == child:
            return exit_code(status)
        if pid == 0 and wait_for_signal(POLL_S) == signal.SIGTERM:
            os.kill(child, signal.SIGTERM)


def succeeds(command: list[str], limit_s: float) -> bool:
    pid = spawn(command, log=os.devnull)
    until = time.monotonic() + limit_s
    while time.monotonic() < until:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return status == 0
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return False


def spawn(command: list[str], directory: str = ".", log: str | None = None, blocked: bool = False) -> int:
    """Start a child that dies with us, in a session of its own; its signals unblocked unless told."""
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    try:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(127)  # the parent died before the line above could matter
        os.setsid()
        reset_signals(blocked)
        os.chdir(directory)
        if log is not None:
            redirect(log)
        os.execvp(command[0], command)
    except OSError as error:
        os.write(2, f"cannot start {command[0]}: {error}\n".encode())
    finally:
        os._exit(127)


def redirect(log: str) -> None:
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(output, 1)
    os.dup2(output, 2)


# --- signals ----------------------------------------------------------------------------

_WAITED = {signal.SIGCHLD, signal.SIGTERM}
_IGNORED = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGPIPE)


def catch_signals() -> None:
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, _WAITED)


def reset_signals(blocked: bool) -> None:
    for number in _IGNORED:
        signal.signal(number, signal.SIG_DFL)
    if not blocked:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _WAITED)


def wait_for_signal(limit_s: float) -> int | None:
    """Sleep until SIGCHLD, SIGTERM or `limit_s`; the signal that came."""
    if not LINUX:  # macOS has no sigtimedwait
        time.sleep(limit_s)
        return signal.sigwait(_WAITED) if signal.sigpending() & _WAITED else None
    got = signal.sigtimedwait(_WAITED, limit_s)
    return got.si_signo if got else None


def exit_code(status: int) -> int:
    """As the shell counts: 128 + N after signal N."""
    return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def prctl(option: int, value: int) -> None:
    if LINUX:
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


# --- processes --------------------------------------------------------------------------


class Process(NamedTuple):
    """A process that lives; the start time tells it from a later one with the same pid."""

    pid: int
    parent: int
    start: str


class Mark(NamedTuple):
    """A living process with the machine that its environment names."""

    process: Process
    machine: str
    directory: str


def processes() -> list[Process]:
    """Every living process, zombies left out."""
    if not LINUX:
        return _processes_by_ps()
    found = (process(int(entry)) for entry in os.listdir("/proc") if entry.isdigit())
    return [p for p in found if p is not None]


def process(pid: int) -> Process | None:
    """The living process with this pid now, or None."""
    if not LINUX:
        return next((p for p in _processes_by_ps() if p.pid == pid), None)
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            # The second field is the program's name in brackets and may hold anything.
            fields = file.read().rsplit(")", 1)[1].split()
    except (OSError, IndexError):
        return None
    return None if fields[0] in "ZX" else Process(pid, int(fields[1]), fields[19])


def _processes_by_ps() -> list[Process]:
    with os.popen("ps -A -o pid= -o ppid= -o stat= -o lstart=") as lines:
        rows = [line.split(None, 3) for line in lines]
    return [Process(int(row[0]), int(row[1]), row[3].strip()) for row in rows if row[2][0] != "Z"]


def marks(table: Iterable[Process]) -> list[Mark]:
    """Those of `table` that carry a machine's mark and that we may read."""
    return [mark for mark in map(_mark, table) if mark is not None]


def _mark(candidate: Process) -> Mark | None:
    try:
        with open(f"/proc/{candidate.pid}/environ", "rb") as file:
            entries = dict(entry.partition(b"=")[::2] for entry in file.read().split(b"\0"))
    except OSError:
        return None
    machine, directory = entries.get(MARK.encode()), entries.get(MARK_DIRECTORY.encode())
    if machine is None or directory is None:
        return None
    return Mark(candidate, os.fsdecode(machine), os.fsdecode(directory))


def below(table: Iterable[Process], roots: Iterable[int]) -> list[Process]:
    """The processes with these pids and all their descendants."""
    children: dict[int, list[Process]] = {}
    known: dict[int, Process] = {}
    for p in table:
        children.setdefault(p.parent, []).append(p)
        known[p.pid] = p
    found: dict[int, Process] = {}
    todo = [known[pid] for pid in roots if pid in known]
    while todo:
        p = todo.pop()
        if p.pid not in found:
            found[p.pid] = p
            todo.extend(children.get(p.pid, ()))
    return list(found.values())


def kill_all(find: Callable[[], list[Process]], reap: Callable[[], None], limit_s: float = KILL_LIMIT_S) -> int:
    """Freeze and kill what `find` finds until it finds nothing; how many there were."""
    killed = set()
    until = time.monotonic() + limit_s
    found = find()
    while found and time.monotonic() < until:
        # Frozen first, so that none can fork while the others die.
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for p in found:
                send(p, number)
        killed.update(found)
        reap()
        time.sleep(0.002)
        found = find()
    return len(killed)


def send(target: Process, number: int) -> None:
    """Signal this process, never another one that has come to its pid since."""
    now = process(target.pid)
    if now is None or now.start != target.start:
        return
    try:
        os.kill(target.pid, number)
    except OSError:
        return


def who_am_i() -> Json:
    me = process(os.getpid())
    return {
        "pid": os.getpid(),
        "start_time": me.start if me else "",
        "boot_id": boot_id(),
        "host": os.uname().nodename,
    }


def boot_id() -> str:
    """Differs after each start of the host; empty where the host does not tell."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


def uptime() -> float:
    """Seconds since the host started, sleep included where the system counts it."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if sys.platform == "linux" else time.monotonic()


# --- files ------------------------------------------------------------------------------


def take_lock(directory: str) -> int | None:
    """The machine's lock, held until the descriptor is closed; None when another one holds it."""
    lock = os.open(os.path.join(directory, LOCK), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        return None
    return lock


def read(path: str) -> Json | None:
    """A JSON object from a file; None when there is none that can be read."""
    try:
        with open(path, encoding="utf-8") as file:
            value = json.load(file)
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def write(path: str, value: Json) -> None:
    """Put a JSON object, all of it or nothing, safe against power loss."""
    os.replace(_draft(path, value, sync=True), path)
    _sync_directory(path)


def write_once(path: str, value: Json, sync: bool = True) -> bool:
    """Put a JSON object where there is none yet; False when there was one."""
    draft = _draft(path, value, sync)
    try:
        os.link(draft, path)
    except FileExistsError:
        return False
    finally:
        os.unlink(draft)
    if sync:
        _sync_directory(path)
    return True


def _draft(path: str, value: Json, sync: bool) -> str:
    directory, name = os.path.split(path)
    draft = os.path.join(directory, f".{name}.{os.getpid()}.{time.monotonic_ns()}")
    with open(draft, "x", encoding="utf-8") as file:
        json.dump(value, file, indent=1, sort_keys=True)
        file.flush()
        if sync:
            os.fsync(file.fileno())
    return draft


def _sync_directory(path: str) -> None:
    directory = os.open(os.path.dirname(path), os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def remove(path: str, tries: int = 5) -> bool:
    """Remove a tree, read-only directories too; False when something of it still stands."""
    for _ in range(tries):
        _remove_once(path)
        if not os.path.lexists(path):
            return True
        # Deeper than a path may be long, or a process that is dying has still written.
        os.waitpid(os.posix_spawnp("rm", ["rm", "-rf", "--", path], os.environ), 0)
        time.sleep(0.02)
    return not os.path.lexists(path)


def _remove_once(path: str) -> None:
    try:
        if os.path.islink(path) or not os.path.isdir(path):
            os.unlink(path)
            return
        os.chmod(path, stat.S_IRWXU)
        with os.scandir(path) as entries:
            for entry in list(entries):
                _remove_once(entry.path)
        os.rmdir(path)
    except (OSError, RecursionError):
        return  # the caller looks at what is left


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
