"""Which of a run's results are links to others of them: `latest.pt -> step-100.pt`, `best/ -> checkpoint-8/`.

A manifest names the files behind a link as well. Whoever lays results somewhere lays first what lies there by itself,
then the links whose targets have come there, and in place of any other link the files.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import NamedTuple

from sojourn.agent.results.links import Via, leading, own_path
from sojourn.records import FileEntry


class ResultLink(NamedTuple):
    """A link, and the files that are reached by it."""

    path: str
    target: str
    files: tuple[FileEntry, ...]

    @property
    def own(self) -> str:
        """The path that it leads to."""
        return own_path(self.path, Via(self.path, self.target))

    @property
    def leads_to(self) -> set[str]:
        """The paths of its files without it."""
        return {own_path(entry.path, Via(self.path, self.target)) for entry in self.files}

    def __str__(self) -> str:
        return f"{self.path} -> {self.target}"


def apart(files: Iterable[FileEntry]) -> tuple[list[FileEntry], list[ResultLink]]:
    """What lies there by itself, and the links to it; one that leads to another comes after that."""
    known = list(files)
    targets = leading({one.path: (one.hash, _via(one)) for one in known})
    groups: dict[str, list[FileEntry]] = {}
    plain = []
    for one in known:
        if one.link is not None and one.link.path in targets:
            groups.setdefault(one.link.path, []).append(one)
        else:
            plain.append(one)
    found = [ResultLink(path, targets[path], tuple(some)) for path, some in sorted(groups.items())]
    return plain, _in_order(found, {one.path for one in plain})


def copied(files: Iterable[FileEntry]) -> tuple[str, ...]:
    """The links in place of which their files lie."""
    return tuple(sorted({one.link.path for one in files if one.link is not None}))


def _in_order(links: list[ResultLink], there: set[str]) -> list[ResultLink]:
    ordered: list[ResultLink] = []
    todo = links
    while todo:
        ready = [one for one in todo if one.leads_to <= there] or todo
        ordered += ready
        there |= {entry.path for one in ready for entry in one.files}
        left: Collection[ResultLink] = set(ready)
        todo = [one for one in todo if one not in left]
    return ordered


def _via(entry: FileEntry) -> Via | None:
    return Via(entry.link.path, entry.link.target) if entry.link is not None else None
