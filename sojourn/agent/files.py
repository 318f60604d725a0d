"""JSON objects in files that other processes read at any moment, and trees that must go.

A reader finds a whole object or none: each is written under another name first. Where a
machine's life hangs on it, the bytes are on the disk before the name is.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import stat
import time
from typing import Any, Dict

Json = Dict[str, Any]

ROOM = 10 << 30  # bytes
LARGEST = 64 << 20  # bytes of a file that is read whole


def read(path: str) -> Json | None:
    """A JSON object from a file; None when there is none that can be read. A pipe is not waited for."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), encoding="utf-8") as file:
            state = os.fstat(file.fileno())
            if not stat.S_ISREG(state.st_mode) or state.st_size > LARGEST:
                return None
            value = json.load(file)
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def write(path: str, value: Json, sync: bool = True) -> None:
    """Put a JSON object, all of it or nothing; `sync` makes it safe against power loss."""
    draft = _draft(path, value, sync)
    try:
        os.replace(draft, path)
    except OSError:
        _drop(draft)
        raise
    if sync:
        _sync_directory(path)


def write_once(path: str, value: Json, sync: bool = True) -> bool:
    """Put a JSON object where there is none yet; False when there was one."""
    draft = _draft(path, value, sync)
    try:
        os.link(draft, path)
    except FileExistsError:
        return False
    finally:
        _drop(draft)
    if sync:
        _sync_directory(path)
    return True


def _draft(path: str, value: Json, sync: bool) -> str:
    directory, name = os.path.split(path)
    draft = os.path.join(directory, f".{name}.{os.getpid()}.{time.monotonic_ns()}")
    try:
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            json.dump(value, file, indent=1, sort_keys=True)
            file.flush()
            if sync:
                os.fsync(file.fileno())
    except BaseException:
        _drop(draft)  # a full disk holds one file less, not one more with each try
        raise
    return draft


def _drop(path: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)


def _sync_directory(path: str) -> None:
    directory = os.open(os.path.dirname(path), os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def has_room(folder: str) -> bool:
    """Whether its disk has a tenth left, or as much as any disk has that nobody calls full."""
    state = os.statvfs(folder)
    return state.f_bavail >= min(0.1 * state.f_blocks, ROOM / state.f_frsize)


def take_lock(path: str) -> int | None:
    """This file's lock, held until the descriptor is closed; None when another process holds it."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        return None
    return lock


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
