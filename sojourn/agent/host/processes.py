"""The process table: who lives, who descends from whom, who is ours, and how to end them.

A pid counts only together with the start time of its process, because the system gives
the number away again. What belongs to a machine carries a mark in its environment, so
that it is found after everybody who knew its pid has died.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

LINUX = sys.platform == "linux"
KILL_LIMIT_S = 10.0

# The machine's name; its directory tells apart two data directories of one user.
MARK = "SOJOURN_MACHINE"
MARK_DIRECTORY = "SOJOURN_MACHINE_DIR"
KEYS = "SOJOURN_CREDENTIALS"  # commands that print keys, by the scheme of what they open, each a list of words

# linux/prctl.h
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36


class Process(NamedTuple):
    """One line of the process table."""

    pid: int
    parent: int
    start: str
    dead: bool = False  # it has exited, and its parent has not asked how


class Mark(NamedTuple):
    """A process with the machine that its environment names, and that machine's directory if it has one here."""

    process: Process
    machine: str
    directory: str


# --- looking ----------------------------------------------------------------------------


def processes() -> list[Process]:
    """The whole table; empty where it cannot be had by our own numbers."""
    if not LINUX:
        return _processes_by_ps()
    if not own_proc():
        return []
    found = (_by_proc(int(entry)) for entry in os.listdir("/proc") if entry.isdigit())
    return [p for p in found if p is not None]


def own_proc() -> bool:
    """Whether /proc is there and numbers processes as we do: a namespace may have kept its parent's."""
    try:
        return os.readlink("/proc/self") == str(os.getpid())
    except OSError:
        return False


def process(pid: int) -> Process | None:
    """The living process with this pid now, or None. Where the number was read from, anything may have stood."""
    if type(pid) is not int or pid <= 0:  # a signal to 0 or -1 would be one to many
        return None
    found = _by_proc(pid) if LINUX else next((p for p in _processes_by_ps() if p.pid == pid), None)
    return None if found is None or found.dead else found


def _by_proc(pid: int) -> Process | None:
    try:
        # The second field is the program's name in brackets and may hold anything.
        fields = _whole(f"/proc/{pid}/stat").rsplit(b")", 1)[1].split()
    except (OSError, IndexError):
        return None
    return Process(pid, int(fields[1]), fields[19].decode(), fields[0] in b"ZX")


def _whole(path: str) -> bytes:
    """A file of /proc. A look at the table reads hundreds, and a file object of Python's costs twice the rest."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        found = b""
        while piece := os.read(descriptor, 1 << 16):
            found += piece
        return found
    finally:
        os.close(descriptor)


def _processes_by_ps() -> list[Process]:
    reading, writing = os.pipe()
    words = ["ps", "-A", "-o", "pid=", "-o", "ppid=", "-o", "stat=", "-o", "lstart="]
    ps = os.posix_spawnp(words[0], words, os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, writing, 1)])
    os.close(writing)
    with open(reading, encoding="utf-8", errors="replace") as lines:
        rows = [line.split(None, 3) for line in lines]
    with contextlib.suppress(ChildProcessError):  # somebody here who waits for every child was faster
        os.waitpid(ps, 0)
    found = [Process(int(row[0]), int(row[1]), row[3].strip(), row[2][0] == "Z") for row in rows]
    return [p for p in found if p.pid != ps]


def below(table: Iterable[Process], roots: Iterable[int]) -> list[Process]:
    """The living processes with these pids and all their living descendants."""
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
    return [p for p in found.values() if not p.dead]


def descendants(table: Iterable[Process]) -> list[Process]:
    """The living processes below this one."""
    return [p for p in below(table, [os.getpid()]) if p.pid != os.getpid()]


def ancestry(table: Iterable[Process]) -> set[int]:
    """The pids of this process and of those above it."""
    parents = {p.pid: p.parent for p in table}
    found, pid = set(), os.getpid()
    while pid in parents and pid not in found:
        found.add(pid)
        pid = parents[pid]
    return found


def marks(table: Iterable[Process]) -> list[Mark]:
    """Those of `table` that carry a machine's mark and that we may read."""
    return [mark for mark in map(_mark, table) if mark is not None]


def _mark(candidate: Process) -> Mark | None:
    try:
        found = _whole(f"/proc/{candidate.pid}/environ")
    except OSError:
        return None
    if MARK.encode() not in found:
        return None
    entries = dict(entry.partition(b"=")[::2] for entry in found.split(b"\0"))
    machine = entries.get(MARK.encode())
    if machine is None or candidate.dead:
        return None
    return Mark(candidate, os.fsdecode(machine), os.fsdecode(entries.get(MARK_DIRECTORY.encode(), b"")))


# --- ending -----------------------------------------------------------------------------


def kill_all(find: Callable[[], list[Process]], reap: Callable[[], object], limit_s: float = KILL_LIMIT_S) -> int:
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


def adopt_orphans() -> None:
    """Orphans below us become our children, so that a double fork hides nothing."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent() -> None:
    """Our parent's death, of whatever kind, becomes ours."""
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _prctl(option: int, value: int) -> None:
    if LINUX:
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


# --- names ------------------------------------------------------------------------------


def boot_id() -> str:
    """Differs after each start of the host; empty where the host does not tell."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


def signal_name(number: int) -> str:
    """Such as SIGKILL; real-time signals have a number only."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def exit_code(status: int) -> int:
    """A wait status as the shell counts it: 128 + N after signal N."""
    return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
