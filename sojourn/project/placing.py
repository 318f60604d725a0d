"""Which files of a project are results that a run of ours placed there, and puts newer ones in their place.

A record for each project directory lies in the data directory, so that it outlives the runs: the hashes
that were placed under a path, with the run and when it was planned. A file that has such a hash still is
ours and untouched: a newer run replaces it and it does not travel with the next one. Any other is the user's.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

from pydantic import Field, ValidationError

from sojourn import places
from sojourn.agent import files
from sojourn.errors import TransientError
from sojourn.project import git
from sojourn.project.contents import PLACED
from sojourn.project.project import Project
from sojourn.records import FileEntry, Record
from sojourn.store.blobs import hash_file

FOLDER = "placed"
HASHES = 3  # known of a path: the one that stands, and one on its way there when we died
LOCK_WAIT_S = 30.0

Whose = Literal["nobody", "same", "older", "newer", "user", "elsewhere", "too long"]


class Mark(Record):
    """Content that a run placed."""

    hash: str
    size: int
    run: str
    planned_at: float
    seen: tuple[int, ...] | None = Field(
        default=None, description="mtime_ns, inode and ctime_ns it had with this hash; nobody can put back the last"
    )


class LinkMark(Record):
    """A link that a run placed."""

    target: str
    run: str
    planned_at: float


class Stands(NamedTuple):
    """What is at a result's place: nothing, this content, another run's, or what the user made of it."""

    whose: Whose
    run: str | None = None
    since: float | None = None


class Placings:
    """The record of one project directory."""

    def __init__(self, home: Path, root: Path) -> None:
        self.root = root.resolve()
        name = hashlib.sha256(os.fsencode(self.root)).hexdigest()[:24]
        self._file = home / FOLDER / f"{name}.json"
        self._links: dict[str, LinkMark] | None = None
        self._known: tuple[tuple[int, int, int], dict[str, list[Mark]]] | None = None  # by the file's times and inode
        if not self._file.exists():
            self._take_along()

    def _take_along(self) -> None:
        """Find the record of a directory that was moved here: the same one, and nothing where it was."""
        if not self.root.is_dir():
            return
        for other in self._file.parent.glob("*.json") if self._file.parent.is_dir() else ():
            body = files.read(str(other)) or {}
            if body.get("identity") == _identity(self.root) and not os.path.lexists(str(body.get("root"))):
                with suppress(OSError):
                    other.replace(self._file)
                return

    @contextmanager
    def held(self) -> Iterator[None]:
        """Nobody else places results in this directory meanwhile. Raises TransientError when somebody does for long."""
        self._file.parent.mkdir(parents=True, exist_ok=True)
        until = time.monotonic() + LOCK_WAIT_S
        while (lock := files.take_lock(str(self._file.with_suffix(".lock")))) is None:
            if time.monotonic() > until:
                raise TransientError(f"another run is placing its results in {self.root}", hint="wait for it to end")
            time.sleep(0.05)
        try:
            yield
        finally:
            os.close(lock)

    def look(self, entry: FileEntry, planned_at: float) -> Stands:
        """What stands where this result of a run that was planned then belongs."""
        target = self.root / entry.path
        if len(os.fsencode(target)) >= places.WHOLE_PATH_BYTES:
            return Stands("too long")
        if (link := self.link_above(entry.path)) is not None:
            mark = self.links()[link]
            return Stands("older" if mark.planned_at <= planned_at else "newer", mark.run)
        if _is_free(target, self.root):
            return Stands("nobody")
        if not target.resolve().is_relative_to(self.root):
            return Stands("elsewhere")
        if target.is_symlink() or not target.is_file():
            return Stands("user", since=_changed_at(target))
        known = self._mark(entry.path, target)
        if known is None:
            return Stands("same") if holds(target, entry) else Stands("user", since=target.stat().st_mtime)
        if known.hash == entry.hash:
            return Stands("same", known.run)
        return Stands("older" if known.planned_at <= planned_at else "newer", known.run)

    def look_at_link(self, path: str, own: str, planned_at: float) -> Stands:
        """What stands where a link of such a run belongs that leads to another of its results."""
        target = self.root / path
        above = self.link_above(path)
        if above is None and _is_free(target, self.root):
            return Stands("nobody")
        if target.is_symlink() and target.resolve() == (self.root / own).resolve():
            return Stands("same", self.links()[path].run if above == path else None)
        if above is not None:
            mark: Mark | LinkMark | None = self.links()[above]
        elif not target.resolve().is_relative_to(self.root):
            return Stands("elsewhere")
        else:
            mark = self._mark(path, target) if target.is_file() and not target.is_symlink() else None
        if mark is None:
            return Stands("user", since=_changed_at(target))
        return Stands("older" if mark.planned_at <= planned_at else "newer", mark.run)

    def link_above(self, path: str) -> str | None:
        """The link that a run placed at this path, or at a folder above it, and that stands there as it was."""
        links = self.links()
        return next((one for one in (*reversed(_above(path)), path) if one in links), None) if links else None

    def links(self) -> dict[str, LinkMark]:
        """The links that runs placed here and that nobody changed."""
        if self._links is None:
            known = self._link_marks()
            said = {path: _says(self.root / path) for path in known}
            here = {path: [mark for mark in marks if mark.target == said[path]] for path, marks in known.items()}
            self._links = {path: marks[-1] for path, marks in here.items() if marks}
        return self._links

    def is_our_link(self, path: str) -> places.OurLink:
        """Whether a link that was taken away from a path is one that a run placed there."""
        targets = {mark.target for mark in self._link_marks().get(path, ())}
        return lambda said: said in targets

    def note_links(self, targets: Mapping[str, str], run: str, planned_at: float) -> None:
        """Remember that these are placed: before the first is."""
        marks = self._link_marks()
        for path, target in targets.items():
            others = [mark for mark in marks.get(path, ()) if mark.target != target]
            marks[path] = [*others, LinkMark(target=target, run=run, planned_at=planned_at)][-HASHES:]
        self._write(self._read(), self.made(), marks)

    def place_link(self, path: str, target: str, own: str) -> None:
        """Make a noted link, in place of what a run placed there. Raises PlaceError and OSError where it cannot be."""
        ours, our_link = self.is_ours(path), self.is_our_link(path)
        if _says(self.root / path) != target:
            places.put_link(self.root, path, target, leads_to=own, ours=ours, our_link=our_link)
        self._links = None

    def remove_links(self, paths: Iterable[str]) -> None:
        """Take away the links that stand above these results, or they would be placed behind them."""
        for link in {link for path in paths if (link := self.link_above(path)) and link != path}:
            places.take_link(self.root, link, self.is_our_link(link))
        self._links = None

    def _link_marks(self) -> dict[str, list[LinkMark]]:
        found = (files.read(str(self._file)) or {}).get("links")
        try:
            return {path: [LinkMark.model_validate(mark) for mark in marks] for path, marks in (found or {}).items()}
        except (AttributeError, TypeError, ValidationError):
            return {}  # another version's: they are the user's then, and are kept

    def note(self, entries: list[FileEntry], run: str, planned_at: float) -> None:
        """Remember that these are placed: before the first is, so that one of ours is always known as such."""
        marks, made = dict(self._read()), {folder for folder in self.made() if (self.root / folder).is_dir()}
        made |= {folder for entry in entries for folder in _above(entry.path) if not (self.root / folder).exists()}
        for entry in entries:
            known = {mark.hash: mark for mark in marks.get(entry.path, ())}
            before = known.pop(entry.hash, None)
            newest = before if before and before.planned_at > planned_at else None
            mark = newest or Mark(hash=entry.hash, size=entry.size, run=run, planned_at=planned_at)
            marks[entry.path] = [*known.values(), mark.model_copy(update={"seen": None})][-HASHES:]
        self._write(marks, made)

    def settle(self, entries: list[FileEntry]) -> None:
        """Remember how these look now, so that whoever asks need not read them."""
        marks, placed = dict(self._read()), {entry.path: entry.hash for entry in entries}
        for path, digest in placed.items():
            try:
                state = (self.root / path).stat()
            except OSError:
                continue
            seen = _seen(state)
            marks[path] = [
                mark.model_copy(update={"seen": seen if mark.hash == digest else None}) for mark in marks.get(path, ())
            ]
        self._write(marks, self.made())

    def made(self) -> set[str]:
        """The folders that results were placed into and that were not there before."""
        found = (files.read(str(self._file)) or {}).get("folders")
        return set(map(str, found)) if isinstance(found, list) else set()

    def untouched(self) -> dict[str, int]:
        """The paths that hold what a run placed there, each with its size."""
        found = {}
        for path in self._read():
            target = self.root / path
            with suppress(OSError):  # a name that no file can have
                if target.is_file() and not target.is_symlink() and self._mark(path, target):
                    found[path] = target.stat().st_size
        return found | dict.fromkeys(self.links(), 0)

    def is_ours(self, path: str) -> places.Ours:
        """Whether what was taken away from a path is a result that a run placed there; known by its content."""

        def ours(descriptor: int) -> bool:
            state = os.fstat(descriptor)
            marks = [mark for mark in self._read().get(path, ()) if mark.size == state.st_size]
            if any(mark.seen == _seen(state) for mark in marks):
                return True
            with open(descriptor, "rb", closefd=False) as file:
                digest = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}" if marks else ""
            return any(mark.hash == digest for mark in marks)

        return ours

    def beside(self, paths: Iterable[str], run: str) -> list[str]:
        """What other runs placed beside these results, and this run did not write: they are a mixture.

        Beside: in one folder, or of one series at the top, as `step-100.pt` and `step-50.pt` are.
        """
        written = set(paths)
        near = {place for path in written for place in _near(path)}
        alike = {path for path in self._read() if path not in written and not near.isdisjoint(_near(path))}
        marks = {path: self._mark(path, self.root / path) for path in alike if (self.root / path).is_file()}
        return sorted(path for path, mark in marks.items() if mark and mark.run != run)

    def _mark(self, path: str, target: Path) -> Mark | None:
        """The mark of what stands there, if it is ours."""
        state = target.stat()
        marks = [mark for mark in self._read().get(path, ()) if mark.size == state.st_size]
        for mark in marks:
            if mark.seen == _seen(state):
                return mark
        digest = hash_file(target) if marks else ""
        return next((mark for mark in marks if mark.hash == digest), None)

    def _read(self) -> dict[str, list[Mark]]:
        """All marks; of thousands of results each is looked up, so the file is read when it has changed."""
        try:
            state = self._file.stat()
        except OSError:
            return {}
        sign = state.st_mtime_ns, state.st_size, state.st_ino
        if self._known is None or self._known[0] != sign:
            self._known = sign, self._parsed()
        return self._known[1]

    def _parsed(self) -> dict[str, list[Mark]]:
        body = files.read(str(self._file)) or {}
        try:
            return {path: [Mark.model_validate(mark) for mark in marks] for path, marks in body["paths"].items()}
        except (KeyError, AttributeError, TypeError, ValidationError):
            return {}  # none yet, or another version's: what stands there is the user's then, and is kept

    def _write(
        self, marks: dict[str, list[Mark]], made: set[str], links: dict[str, list[LinkMark]] | None = None
    ) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        paths = {path: [mark.model_dump(mode="json") for mark in known] for path, known in sorted(marks.items())}
        noted = self._link_marks() if links is None else links
        told = {path: [mark.model_dump(mode="json") for mark in known] for path, known in sorted(noted.items())}
        known = {"root": os.fsdecode(self.root), "identity": _identity(self.root)}
        files.write(str(self._file), {**known, "folders": sorted(made), "paths": paths, "links": told})
        self._links = None


def earlier_results(home: Path, project: Project, reads: Iterable[str]) -> dict[str, str | None]:
    """What stays here although it stands in the tree: results of earlier runs, as they were placed.

    Not what git tracks, for that is the user's by now, nor what a stage `reads`. With a slash at its end
    a folder that was made for them: it would be in the way of a script that makes it.
    """
    placings = Placings(home, project.root)
    found = placings.untouched()
    if not found:
        return {f"{folder}/": None for folder in placings.made()}
    tracked = set((git.ask(project.root, "ls-files", "-z") or "").split("\0"))
    read = {PurePosixPath(path) for path in reads}
    stay: dict[str, str | None] = {f"{folder}/": None for folder in placings.made()}
    return stay | {
        path: PLACED
        for path in found
        if path not in tracked and read.isdisjoint((PurePosixPath(path), *PurePosixPath(path).parents))
    }


def holds(target: Path, entry: FileEntry) -> bool:
    """Whether this very content is there already, to be executed or not as it should be."""
    try:
        if not target.is_file():
            return False
    except OSError:  # a path that no file here can have
        return False
    state = target.stat()
    alike = state.st_size == entry.size and (state.st_mode ^ entry.mode) & 0o100 == 0
    return alike and hash_file(target) == entry.hash


def _seen(state: os.stat_result) -> tuple[int, ...]:
    return state.st_mtime_ns, state.st_ino, state.st_ctime_ns


def _says(link: Path) -> str | None:
    try:
        return os.readlink(link)
    except OSError:
        return None


def _is_free(target: Path, root: Path) -> bool:
    """Whether nothing is there, not even a link that leads elsewhere, and folders can be made up to it."""
    if target.exists() or target.is_symlink() or not target.resolve().is_relative_to(root):
        return False
    above = next((folder for folder in target.parents if folder.exists() or folder.is_symlink()), root)
    return above.is_dir()


def _above(path: str) -> list[str]:
    return [str(folder) for folder in PurePosixPath(path).parents if folder.name]


def _near(path: str) -> list[str]:
    """What a path has in common with those beside it: the folders above it, and the series of its topmost part."""
    top = PurePosixPath(path).parts[0]
    return [*_above(path), *([re.sub(r"\d+", "#", top)] if re.search(r"\d", top) else [])]


def _identity(root: Path) -> list[int]:
    state = root.stat()
    return [state.st_dev, state.st_ino]


def _changed_at(target: Path) -> float | None:
    try:
        return target.lstat().st_mtime
    except OSError:
        return None
