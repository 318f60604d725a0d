"""What a run leaves out, told: files that do not travel, and files that do not come home (promise P7).

Whoever drops a file for any reason adds it to an `Account` with that reason. Plan and report
print the account in a line or two and `--json` has all of it, so nothing is dropped in silence.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from pydantic import Field

from sojourn.records import Record
from sojourn.shorthand import counted

PATHS = 20  # named of each reason; the counts are of all
NAMED = 3  # of a reason in one line
LOOK_S = 0.3  # for which folders that stay are looked into, to say how much is in them
GLANCE_S = 0.1  # for those that hold nothing a script reads
LOOK_ENTRIES = 60_000


class Left(NamedTuple):
    """A file, or a whole folder (`data/raw/`), that is left out."""

    path: str
    reason: str


class Omission(Record):
    """What was left out for one reason."""

    reason: str = Field(description="As people say it: `ignored by git`, `nested repository`")
    paths: tuple[str, ...] = Field(description="The topmost ones, the largest first; a folder ends with / and is whole")
    unnamed: int = Field(default=0, description="How many more paths there are")
    files: int
    bytes: int
    at_least: bool = Field(default=False, description="Not all of it was looked at: it is more")
    trivial: bool = Field(default=False, description="Nothing that a script reads")
    remedy: str | None = Field(default=None, description="What to type to take it along")


@dataclass
class Account:
    """Collects what is left out, by its reason."""

    _paths: dict[str, dict[str, tuple[int, int]]] = field(default_factory=dict)
    _remedies: dict[str, str] = field(default_factory=dict)
    _more: set[str] = field(default_factory=set)
    _trivial: set[str] = field(default_factory=set)
    _first: set[str] = field(default_factory=set)

    def add(
        self,
        reason: str,
        path: str,
        files: int = 1,
        size: int = 0,
        remedy: str | None = None,
        at_least: bool = False,
        trivial: bool = False,
        first: bool = False,
    ) -> None:
        """Note a file, or a folder (`data/raw/`) with what is in it; one that is to be named `first` also if small."""
        self._paths.setdefault(reason, {})[printable(path)] = (files, size)
        if first:
            self._first.add(printable(path))
        if at_least:
            self._more.add(reason)
        if trivial:
            self._trivial.add(reason)
        if remedy:
            self._remedies.setdefault(reason, remedy)

    def omissions(self) -> tuple[Omission, ...]:
        """One for each reason: what matters first, the largest of it first."""
        found = [self._omission(reason, paths) for reason, paths in self._paths.items()]
        return tuple(sorted(found, key=lambda one: (one.trivial, -one.bytes, -one.files, one.reason)))

    def _omission(self, reason: str, paths: dict[str, tuple[int, int]]) -> Omission:
        ordered = sorted(paths, key=lambda path: (path not in self._first, -paths[path][1], path))
        return Omission(
            reason=reason,
            paths=tuple(ordered[:PATHS]),
            unnamed=len(ordered[PATHS:]),
            files=sum(files for files, _ in paths.values()),
            bytes=sum(size for _, size in paths.values()),
            at_least=reason in self._more,
            trivial=reason in self._trivial,
            remedy=self._remedies.get(reason),
        )


def in_words(omission: Omission, size: str) -> str:
    """`8 files, 2 MB ignored by git: logs/, scratch.txt`."""
    more = len(omission.paths) + omission.unnamed - NAMED
    names = ", ".join(omission.paths[:NAMED]) + (f" and {more} more" if more > 0 else "")
    least = "at least " if omission.at_least else ""
    count = counted(omission.files, "file")
    size = f", {size}" if omission.bytes else ""
    return f"{least}{count}{size} {omission.reason}: {names}"


def in_a_line(omissions: Iterable[Omission], size: Callable[[float], str]) -> str:
    """All that matters, with what to type to take it along; empty where nothing does."""
    told = [one for one in omissions if not one.trivial]
    shown = [in_words(one, size(one.bytes)) + (f" ({one.remedy})" if one.remedy else "") for one in told[:NAMED]]
    return "; ".join([*shown, *([f"{len(told) - NAMED} more: sojourn plan --json"] if len(told) > NAMED else [])])


def total(omissions: Iterable[Omission]) -> tuple[int, int]:
    """Files and bytes of all of them."""
    found = list(omissions)
    return sum(one.files for one in found), sum(one.bytes for one in found)


class Look:
    """Counts what is in folders that stay, for as long as is left of its time and entries."""

    def __init__(self, root: Path, seconds: float = LOOK_S, entries: int = LOOK_ENTRIES) -> None:
        self._root = root
        self._seconds = seconds
        self._entries = entries

    def into(self, path: str) -> tuple[int, int, bool]:
        """Files and bytes of a file or folder, and whether that is all of it."""
        if not path.endswith("/"):
            return 1, _size(self._root / path), True
        begun = time.monotonic()
        try:
            return self._count(self._root / path, until=begun + self._seconds)
        finally:
            self._seconds -= time.monotonic() - begun

    def _count(self, folder: Path, until: float) -> tuple[int, int, bool]:
        files = size = 0
        todo = [folder]
        while todo:
            if self._entries <= 0 or time.monotonic() > until:
                return files, size, False
            for entry in _listing(todo.pop()):
                self._entries -= 1
                if entry.is_dir(follow_symlinks=False):
                    todo.append(Path(entry.path))
                else:
                    files += 1
                    size += _size(entry)
        return files, size, True


def printable(path: str) -> str:
    """A path as it can be shown and stored: a name may hold bytes that are no text, and line breaks."""
    text = os.fsencode(path).decode(errors="backslashreplace")
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def _listing(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:
        return []


def _size(file: Path | os.DirEntry[str]) -> int:
    """The bytes of a regular file; a link and a pipe have none."""
    try:
        info = os.lstat(file) if isinstance(file, Path) else file.stat(follow_symlinks=False)
    except OSError:
        return 0
    return info.st_size if stat.S_ISREG(info.st_mode) else 0
