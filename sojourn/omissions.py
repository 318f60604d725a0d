"""What a run leaves out, told: files that do not travel, and files that do not come home (promise P7).

Whoever drops a file for any reason adds it to an `Account` with that reason. Plan and report
print the account in a line or two and `--json` has all of it, so nothing is dropped in silence.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from pydantic import Field

from sojourn.records import Record
from sojourn.shorthand import counted

PATHS = 20  # named of each reason; the counts are of all
NAMED = 3  # of a reason in one line


class Omission(Record):
    """What was left out for one reason."""

    reason: str = Field(description="As people say it: `ignored by git`, `nested repository`")
    paths: tuple[str, ...] = Field(description="The topmost ones, the largest first; a folder ends with / and is whole")
    files: int
    bytes: int
    remedy: str | None = Field(default=None, description="What to type to take it along")


@dataclass
class Account:
    """Collects what is left out, by its reason."""

    _paths: dict[str, dict[str, tuple[int, int]]] = field(default_factory=dict)
    _remedies: dict[str, str] = field(default_factory=dict)

    def add(self, reason: str, path: str, files: int = 1, size: int = 0, remedy: str | None = None) -> None:
        """Note a file, or a folder (`data/raw/`) with what is in it."""
        self._paths.setdefault(reason, {})[path] = (files, size)
        if remedy:
            self._remedies.setdefault(reason, remedy)

    def omissions(self) -> tuple[Omission, ...]:
        """One for each reason, the largest first."""
        found = [self._omission(reason, paths) for reason, paths in self._paths.items()]
        return tuple(sorted(found, key=lambda one: (-one.bytes, -one.files, one.reason)))

    def _omission(self, reason: str, paths: dict[str, tuple[int, int]]) -> Omission:
        ordered = sorted(paths, key=lambda path: (-paths[path][1], path))
        return Omission(
            reason=reason,
            paths=tuple(ordered[:PATHS]),
            files=sum(files for files, _ in paths.values()),
            bytes=sum(size for _, size in paths.values()),
            remedy=self._remedies.get(reason),
        )


def in_words(omission: Omission, size: str) -> str:
    """`8 files, 2 MB ignored by git: logs/, scratch.txt`."""
    more = len(omission.paths) - NAMED
    names = ", ".join(omission.paths[:NAMED]) + (f" and {more} more" if more > 0 else "")
    count = counted(omission.files, "file")
    return f"{count}, {size} {omission.reason}: {names}"


def total(omissions: Iterable[Omission]) -> tuple[int, int]:
    """Files and bytes of all of them."""
    found = list(omissions)
    return sum(one.files for one in found), sum(one.bytes for one in found)
