"""Removes what old runs left: records, outputs, blobs that no other run names, environments, machine records.

Blobs are shared by hash, so a project's go only while no run of it is being prepared;
`sojourn.store.purge_mark` keeps the two apart. A run goes with its plan first, so that what a purge
that died has left is recognized by the next. Records are read leniently: one that another
version of Sojourn wrote still says which files it names.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Set
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from sojourn import __version__
from sojourn.environment import environment
from sojourn.errors import UnreadableError
from sojourn.names import LeaseName, is_place
from sojourn.providers.local import LocalProvider
from sojourn.records import Record
from sojourn.run import planned
from sojourn.run.closed_runs import ClosedRuns, marked_open
from sojourn.run.runs import SILENT_S, past_runs
from sojourn.run.salvage import is_closed
from sojourn.store.ledger import read_entry
from sojourn.store.mailbox import Mailbox, blobs, objects_of, open_mark, projects, runs_of, tidy
from sojourn.store.purge_mark import purging
from sojourn.store.storage import LISTED_AT_ONCE, Store, batched

LOOKED_AT_ONCE = 64  # runs, between two signs of life
LIVES = "it cannot be read, and somebody was at work on it within the last minute"
AT_LEAST_S = 86400.0  # environments and machine records are shared by all stores of this host


class Old(Record):
    """A run that goes, and the bytes that only it holds."""

    run: str
    project: str
    closed_at: float | None
    bytes: int
    unreadable: bool = False


class Kept(Record):
    """A run that stays although it is old, or because of which others stay."""

    run: str
    project: str
    reason: str


class Purged(Record):
    """What went, or would go."""

    runs: tuple[Old, ...]
    kept: tuple[Kept, ...]
    blobs: int
    blob_bytes: int
    environments: tuple[str, ...]
    environment_bytes: int
    machines: tuple[str, ...]

    @property
    def bytes(self) -> int:
        """All of it together."""
        return sum(one.bytes for one in self.runs) + self.blob_bytes + self.environment_bytes


def purge(
    store: Store, home: Path, *, now: float, older_than_s: float, remove: bool, runs: Collection[str] = ()
) -> Purged:
    """Find what is older, and with `remove` remove it. What is not closed stays, with all that any kept run names.

    With `runs`, these go and no others, however young. Raises TransientError when another purge is at work.
    """
    which = _Which(now if runs else now - older_than_s, frozenset(runs))
    found = [_purge_project(store, name, which, now, remove) for name in projects(store)]
    environments: dict[str, int] = {}
    machines: tuple[str, ...] = ()
    if not runs:
        environments, machines = _purge_host(home, found, now - max(older_than_s, AT_LEAST_S), remove)
    return Purged(
        runs=tuple(old for one in found for old in one.old),
        kept=tuple(kept for one in found for kept in one.kept),
        blobs=sum(len(one.blobs) for one in found),
        blob_bytes=sum(size for one in found for size in one.blobs.values()),
        environments=tuple(environments),
        environment_bytes=sum(environments.values()),
        machines=machines,
    )


# --- what is there --------------------------------------------------------------------------


@dataclass(frozen=True)
class _Which:
    """The runs that go: those closed before this moment, or of those the named ones."""

    before: float
    named: frozenset[str]

    def means(self, run: _Run) -> bool:
        return not self.named or run.mailbox.run in self.named


@dataclass(frozen=True)
class _Run:
    """A run as far as a purge must know it, read leniently: another version of Sojourn may have written it."""

    mailbox: Mailbox
    created_at: float | None
    closed_at: float | None
    preparing: bool = False
    names: frozenset[str] | None = None  # None while nobody has looked
    digest: str | None = None
    unreadable: str | None = None

    @property
    def open(self) -> bool:
        """Whether somebody may still go on with it; without a plan it is what an earlier purge left."""
        return self.closed_at is None and self.created_at is not None


@dataclass(frozen=True)
class _Found:
    """What of one project goes, and why the rest stays."""

    runs: tuple[_Run, ...]
    gone: frozenset[str] = frozenset()
    old: tuple[Old, ...] = ()
    kept: tuple[Kept, ...] = ()
    blobs: dict[str, int] = field(default_factory=dict)
    needed: Set[str] = frozenset()


@dataclass
class _Tally:
    """What of a run is in the store."""

    bytes: int = 0
    objects: int = 0
    has_plan: bool = False
    has_report: bool = False


def _find(store: Store, project: str, which: _Which, now: float, remove: bool, renew: Callable[[], None]) -> _Found:
    """What goes. Closed runs are known by their pages; what stays is read, and so is what no page tells of."""
    runs = {run.mailbox.run: run for run in _known(store, project, remove)}
    needed: set[str] = set()

    def goes(run: _Run) -> bool:
        return not (run.open or run.unreadable) and (run.closed_at or 0.0) < which.before and which.means(run)

    def look(some: Iterable[_Run]) -> None:
        for chunk in _chunks(some):
            renew()
            for run in store.clock.together([partial(_look, run, now) for run in chunk]):
                needed.update(() if goes(run) else run.names or ())
                runs[run.mailbox.run] = replace(run, names=frozenset())

    look([run for run in runs.values() if run.names is None and not (goes(run) and run.closed_at)])
    tallies = _tallies(store, project, [run.mailbox for run in runs.values() if goes(run)], needed, renew)
    # A run that has no report and a plan is not closed, whatever its page says.
    doubtful = [runs[run] for run, one in tallies.items() if one.has_plan and not one.has_report]
    look([replace(run, closed_at=None) for run in doubtful if run.names is None])
    damaged = [run for run in runs.values() if run.unreadable]
    told = [run for run in damaged if run.mailbox.run not in which.named]
    concerned = [run for run in runs.values() if run in told or (which.means(run) and not run.unreadable)]
    kept = tuple(_reasons(concerned, which.before))
    if told:
        return _Found(tuple(runs.values()), kept=kept)  # nobody knows what that run names
    named = [run for run in damaged if run.mailbox.run in which.named]
    lives = {run.mailbox.run: f"{LIVES}: sojourn stop {run.mailbox.run}" for run in named if _lives(run.mailbox, now)}
    kept += tuple(Kept(run=name, project=project, reason=reason) for name, reason in lives.items())
    gone = {name: run for name, run in runs.items() if goes(run)}
    gone |= {run.mailbox.run: run for run in named if run.mailbox.run not in lives}
    tallies |= _tallies(store, project, [run.mailbox for run in gone.values() if run.unreadable], needed, renew)
    # Of one that cannot be read nobody knows whether others share its files.
    sizes = {} if damaged or any(run.preparing for run in runs.values()) else store.sizes(blobs(project))
    return _Found(
        runs=tuple(runs.values()),
        gone=frozenset(gone),
        old=tuple(_old(gone[name], one) for name, one in tallies.items() if name in gone and one.objects),
        kept=kept,
        blobs={key: size for key, size in sizes.items() if key not in needed},
        needed=needed,
    )


def _lives(mailbox: Mailbox, now: float) -> bool:
    """Whether somebody is at work on a run of which nobody can read how far it is: its owner, or a machine of it."""
    if is_closed(mailbox):
        return False
    signs = [f"{mailbox.control}/owner.json"]
    signs += [f"{mailbox.machine}/{attempt}/0/beat.json" for attempt in mailbox.attempts_of_machines()[-1:]]
    heard = [at.timestamp() for key in signs if (at := mailbox.store.modified(key)) is not None]
    return any(abs(now - at) < SILENT_S for at in heard)


def _known(store: Store, project: str, note: bool) -> list[_Run]:
    """Every run with what its project's pages tell of it; closed runs that none told of are `note`d."""
    closed = {one.run: one for one in past_runs(store, project, note)}
    return [
        _Run(mailbox, one.created_at, one.ended_at) if (one := closed.get(mailbox.run)) else _Run(mailbox, None, None)
        for mailbox in runs_of(store, project)
    ]


def _tallies(
    store: Store, project: str, mailboxes: Collection[Mailbox], needed: Set[str], renew: Callable[[], None]
) -> dict[str, _Tally]:
    """What of these runs is in the store and not needed by others."""
    found = {mailbox.run: _Tally() for mailbox in sorted(mailboxes, key=lambda one: one.run)}
    for number, (mailbox, key, size) in enumerate(objects_of(store, project, mailboxes)):
        if number % LISTED_AT_ONCE == 0:
            renew()
        one = found[mailbox.run]
        one.has_plan |= key == f"{mailbox.control}/plan.json"
        one.has_report |= key == f"{mailbox.control}/report.json"
        if key not in needed:
            one.bytes += size
            one.objects += 1
    return found


def _chunks(runs: Iterable[_Run]) -> Iterator[list[_Run]]:
    rest = iter(runs)
    while some := list(islice(rest, LOOKED_AT_ONCE)):
        yield some


def _look(run: _Run, now: float) -> _Run:
    try:
        return _read(run.mailbox, now, run.closed_at)
    except (UnreadableError, ValueError, KeyError, TypeError, AttributeError) as error:
        other = f"{run.mailbox.control}/plan.json has not the fields that are asked for"
        why = error.message if isinstance(error, UnreadableError) else other
        return _Run(run.mailbox, None, None, unreadable=why)


def _read(mailbox: Mailbox, now: float, closed_at: float | None) -> _Run:
    plan = mailbox.raw("plan")
    if plan is None:
        return _Run(mailbox, None, None, names=frozenset())
    made_by, python = plan.get("made_by"), plan["environment"]
    another = isinstance(made_by, str) and made_by not in ("", __version__)
    parts = [mailbox.raw("bundle"), mailbox.raw("inputs")]
    if another or python["kind"] == "sent":
        parts.append(mailbox.raw("environment"))
    closed_at = closed_at or _closed_at(mailbox)
    brought = is_place(plan.get("place")) and parts[1] is not None and not another  # to where the run itself keeps it
    in_time = closed_at is None and now < plan["deadline_at"] + plan["launch"]["grace"]
    more = _all_of(mailbox) if another else ()
    return _Run(
        mailbox,
        created_at=float(plan["created_at"]),
        closed_at=closed_at,
        preparing=None in parts and in_time,
        names=frozenset(_sources([*parts, *more, None if brought else plan.get("resume")])),
        digest=python.get("digest"),
    )


def _all_of(mailbox: Mailbox) -> Iterator[dict[str, Any] | None]:
    """Every record of a run that another version made: it may name files where this one would not look."""
    for key in mailbox.store.keys(mailbox.control):
        name = key.removeprefix(f"{mailbox.control}/").removesuffix(".json")
        if key.endswith(".json") and "/" not in name and name not in ("owner", "report"):
            yield mailbox.raw(name)


def _closed_at(mailbox: Mailbox) -> float | None:
    number = 0
    while (entry := read_entry(mailbox, number)) is not None:
        if entry.kind == "closed":
            return entry.at
        number += 1
    return None


def _sources(value: Any) -> Iterator[str]:
    """Every key that a record names as a file's source."""
    if isinstance(value, dict):
        if isinstance(value.get("source"), str):
            yield value["source"]
        value = list(value.values())
    if isinstance(value, list):
        for inner in value:
            yield from _sources(inner)


def _old(run: _Run, left: _Tally) -> Old:
    mailbox = run.mailbox
    return Old(
        run=mailbox.run,
        project=mailbox.project,
        closed_at=run.closed_at,
        bytes=left.bytes,
        unreadable=run.unreadable is not None,
    )


def _reasons(runs: Iterable[_Run], before: float) -> Iterator[Kept]:
    for run in runs:
        names = {"run": run.mailbox.run, "project": run.mailbox.project}
        if run.unreadable:
            remedy = f"sojourn purge {run.mailbox.run} --yes"
            yield Kept(**names, reason=f"all of its project stays: {run.unreadable}; to remove that run: {remedy}")
        elif run.preparing:
            yield Kept(**names, reason="it is being prepared, so its project's shared files stay this time")
        elif run.open and (run.created_at or 0.0) < before:
            yield Kept(**names, reason=f"it is not closed: sojourn attach {run.mailbox.run}")


# --- removing -------------------------------------------------------------------------------


def _purge_project(store: Store, project: str, which: _Which, now: float, remove: bool) -> _Found:
    if not remove:
        return _find(store, project, which, now, remove, lambda: None)
    with purging(store, project) as renew:
        found = _find(store, project, which, now, remove, renew)
        for batch in batched(found.blobs):
            renew()
            store.delete(*batch)
        if found.blobs:
            store.erase(blobs(project))
        if found.gone:
            _remove(store, project, found, renew)
        _unmark(store, project, found, now - AT_LEAST_S)
    return found


def _remove(store: Store, project: str, found: _Found, renew: Callable[[], None]) -> None:
    """Remove the runs that go: from the pages, then their plans, with which they are runs no more, then the rest."""
    gone = [run.mailbox for run in found.runs if run.mailbox.run in found.gone]
    ClosedRuns(store, project).drop(found.gone)
    plans = [f"{mailbox.control}/plan.json" for mailbox in gone]
    rest = (key for _, key, _ in objects_of(store, project, gone) if key not in found.needed)
    marks = [open_mark(project, mailbox.run) for mailbox in gone]
    for keys in (plans, rest, marks):
        for batch in batched(keys):
            renew()
            store.delete(*batch)
    tidy(store, project, gone)


def _unmark(store: Store, project: str, found: _Found, before: float) -> None:
    """Take away the marks of runs that were never begun."""
    for run in marked_open(store, project) - {run.mailbox.run for run in found.runs}:
        at = store.modified(open_mark(project, run))
        if at is not None and at.timestamp() < before:
            store.delete(open_mark(project, run))


def _purge_host(home: Path, found: list[_Found], before: float, remove: bool) -> tuple[dict[str, int], tuple[str, ...]]:
    """The environments and the records of machines that go, of this host."""
    provider = LocalProvider(home)
    runs = {run.mailbox.run: run for one in found for run in one.runs}
    busy = {name for name, run in runs.items() if run.open or run.unreadable}
    machines = [name for name in provider.past(time.time() - before) if _run_of(name) not in busy]
    environments = environment.unused(home, before)
    digests = {run.digest for run in runs.values() if run.open}
    environments = {digest: size for digest, size in environments.items() if digest not in digests}
    if any(lease.run not in runs for lease in provider.leases()) or any(run.unreadable for run in runs.values()):
        environments = {}  # a run of another store uses who knows which
    if remove:
        for name in (name for one in found for name in one.gone):
            planned.forget(home, name)
        for name in machines:
            provider.forget(name)
        environments = {
            digest: size for digest, size in environments.items() if environment.remove(digest, home, before)
        }
    return environments, tuple(machines)


def _run_of(lease: str) -> str | None:
    name = LeaseName.parse(lease)
    return name.run if name else None
