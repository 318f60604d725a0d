"""What is known of a project's closed runs, in a few pages, so that nobody opens them one by one.

Whoever closes a run writes a page, as the very last. A page is never changed: the next writer makes one that holds
it and the new run, and then takes the old one away, so two writers at once leave two pages, and one that dies leaves
a page too many. Pages are never the truth: a run that stands in none of them, or that is marked as open, is looked at
itself, an entry without a run counts for nothing, and what is lost or cannot be read is written anew by the next
list of runs, sweep or close.
"""

from __future__ import annotations

import gzip
import hashlib
import secrets
import zlib
from collections.abc import Collection, Iterable, Iterator, Set
from contextlib import suppress
from functools import partial
from typing import ClassVar

from sojourn.decoding import decode
from sojourn.errors import SojournError, UnreadableError
from sojourn.plan.planning import Plan
from sojourn.records import Record
from sojourn.results.report import Report
from sojourn.store.mailbox import closed_pages, open_mark, open_marks
from sojourn.store.storage import Store

FULL = 2500  # runs in a page that is not written again; some 100 KB as it lies in the store
COMMAND_LENGTH = 400
LIMIT = 64 << 20  # bytes of a page
TRIES = 3  # to read pages that another takes away meanwhile


class Summary(Record):
    """A closed run in a line."""

    run: str
    created_at: float
    ended_at: float
    deadline_at: float
    state: str
    receipt: str
    command: str
    program: str
    inputs: str
    seconds: float
    cost: float
    where: str
    machine: str
    nodes: int

    @classmethod
    def of(cls, plan: Plan, report: Report) -> Summary:
        """What of a run's records is told in a line."""
        return cls(
            run=plan.run,
            created_at=plan.created_at,
            ended_at=report.ended_at,
            deadline_at=plan.deadline_at,
            state=report.state,
            receipt=report.receipt,
            command=shortened(report.command),
            program=shortened(report.program),
            inputs=report.inputs,
            seconds=report.seconds,
            cost=report.cost,
            where=plan.launch.where,
            machine=report.machine,
            nodes=report.nodes,
        )


class Page(Record):
    """Some runs of a project."""

    INDENT: ClassVar[int | None] = None

    runs: tuple[Summary, ...]


def shortened(text: str) -> str:
    """The text, or of a long one the beginning and a checksum: equal texts stay equal, others do not become so."""
    if len(text) <= COMMAND_LENGTH:
        return text
    return f"{text[:COMMAND_LENGTH]}… ({hashlib.sha256(text.encode(errors='replace')).hexdigest()[:8]})"


class ClosedRuns:
    """The pages of one project."""

    def __init__(self, store: Store, project: str) -> None:
        self._store = store
        self._project = project
        self._prefix = closed_pages(project)

    def read(self) -> dict[str, Summary]:
        """Every run that some page tells of."""
        for _ in range(TRIES):
            keys = self._store.keys(self._prefix)
            found = self._pages(keys)
            if len(found) == len(keys):
                break
        return _by_run(one for page in found.values() if page for one in page.runs)

    def add(self, summaries: Collection[Summary]) -> None:
        """Write runs down that are closed, and that they are marked as open no more.

        Nothing hangs on it: what fails here is made good by the next one who looks.
        """
        if not summaries:
            return
        with suppress(SojournError, ValueError):
            small = self._pages(key for key in self._store.keys(self._prefix) if _count(key) < FULL)
            self._replace(small, (*_runs(small), *summaries))
            self._store.delete(*(open_mark(self._project, one.run) for one in summaries))

    def drop(self, gone: Set[str]) -> None:
        """Forget these runs."""
        pages = self._pages(self._store.keys(self._prefix))
        touched = {key: page for key, page in pages.items() if page is None or gone & {one.run for one in page.runs}}
        self._replace(touched, (one for one in _runs(touched) if one.run not in gone))

    def _replace(self, pages: dict[str, Page | None], summaries: Iterable[Summary]) -> None:
        """Write these runs in place of some pages: first the new ones, then the old ones go."""
        runs = tuple(_by_run(summaries).values())
        for first in range(0, len(runs), FULL):
            page = Page(runs=runs[first : first + FULL])
            name = f"{len(page.runs):06d}-{secrets.token_hex(8)}.json.gz"
            self._store.create(f"{self._prefix}/{name}", gzip.compress(page.to_bytes(), mtime=0))
        self._store.delete(*pages)

    def _pages(self, keys: Iterable[str]) -> dict[str, Page | None]:
        """The pages by key, without those that are gone by now; None is one that cannot be read."""
        asked = list(keys)
        bodies = self._store.clock.together([partial(self._store.find, key) for key in asked])
        return {key: _page(body, key) for key, body in zip(asked, bodies, strict=True) if body is not None}


def mark_open(store: Store, project: str, run: str) -> None:
    """Say that a run is to be looked at itself, whatever the pages say; before anything else of it is written."""
    store.put(open_mark(project, run), b"{}")


def marked_open(store: Store, project: str) -> set[str]:
    """The runs that are marked so."""
    return {key.rsplit("/", 1)[-1] for key in store.keys(open_marks(project))}


def _page(body: bytes, key: str) -> Page | None:
    unzip = zlib.decompressobj(zlib.MAX_WBITS | 16)
    try:
        text = unzip.decompress(body, LIMIT)
        return decode(text, Page, key) if unzip.eof else None
    except (UnreadableError, zlib.error):
        return None


def _runs(pages: dict[str, Page | None]) -> Iterator[Summary]:
    return (one for page in pages.values() if page for one in page.runs)


def _by_run(summaries: Iterable[Summary]) -> dict[str, Summary]:
    """One for each run; of two the later."""
    return {one.run: one for one in sorted(summaries, key=lambda one: one.ended_at)}


def _count(key: str) -> int:
    """How many runs a page holds, by its name; one of another name is never written again."""
    number = key.rsplit("/", 1)[-1].partition("-")[0]
    return int(number) if number.isascii() and number.isdecimal() else FULL
