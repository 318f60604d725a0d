"""What Linux tells of a process beyond its line in the table: the signals it handles, the files it writes."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterable

from sojourn.agent.host.processes import descendants, own_proc, processes


def being_written() -> set[int]:
    """The inodes that a process below this one has open for writing, or writes to in its memory (mmap)."""
    pids = [p.pid for p in descendants(processes())]
    mapped = {inode for pid in pids for inode in _mapped_inodes(pid)}
    files = (f"/proc/{pid}/fd/{number}" for pid in pids for number in _open_files(pid))
    return {inode for inode in map(_written_inode, files) if inode} | mapped


def _open_files(pid: int) -> list[str]:
    try:
        return os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return []


def _written_inode(file: str) -> int | None:
    try:
        with open(file.replace("/fd/", "/fdinfo/")) as info:
            flags = next(int(line.split()[1], 8) for line in info if line.startswith("flags:"))
        return None if flags & os.O_ACCMODE == os.O_RDONLY else os.stat(file).st_ino
    except (OSError, StopIteration):
        return None


def _mapped_inodes(pid: int) -> list[int]:
    """Files that are mapped to be written through, as `np.memmap` does; their descriptors may be closed by then."""
    try:
        with open(f"/proc/{pid}/maps", "rb") as maps:
            found = [line.split(None, 5) for line in maps if b"w-s" in line or b"wxs" in line]
    except OSError:
        return []
    shared = (words for words in found if len(words) == 6 and words[1].endswith(b"s"))
    return [int(words[4]) for words in shared if not words[5].startswith((b"/dev/", b"/memfd:", b"/SYSV"))]


def words_of(pid: int, limit: int = 80) -> str:
    """The beginning of a process's command line; empty for one that is gone."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read(4096).decode(errors="replace").replace("\0", " ").strip()[:limit]
    except OSError:
        return ""


def catches(pid: int, number: int = signal.SIGTERM) -> bool:
    """Whether the process handles this signal."""
    try:
        with open(f"/proc/{pid}/status") as file:
            mask = next(line for line in file if line.startswith("SigCgt")).split()[1]
    except (OSError, StopIteration):
        return False
    return bool(int(mask, 16) >> (number - 1) & 1)


def catchers(roots: Iterable[int]) -> list[int]:
    """From each root downwards the first processes that handle SIGTERM.

    Not those below them: a loader worker ended by our signal would look to its parent
    like a crash, in the middle of the checkpoint that we ask for.
    """
    if not own_proc():
        return list(roots)
    children: dict[int, list[int]] = {}
    for entry in processes():
        if not entry.dead:
            children.setdefault(entry.parent, []).append(entry.pid)
    found, todo = [], list(roots)
    while todo:
        pid = todo.pop()
        if catches(pid):
            found.append(pid)
        else:
            todo += children.get(pid, [])
    return found


def dump_no_core(pid: int) -> None:
    """Let the process leave no core file, which may be as large as its memory."""
    with contextlib.suppress(ImportError, AttributeError, OSError, ValueError):
        import resource

        # One byte and not none: a program that takes cores from the kernel is spared then too, see core(5).
        resource.prlimit(pid, resource.RLIMIT_CORE, (1, resource.prlimit(pid, resource.RLIMIT_CORE)[1]))
