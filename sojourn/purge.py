"""Removes what old runs left: records, outputs, blobs that no other run names, environments, machine records.

Blobs are shared by hash, so a project's go only while no run of it is being prepared;
`sojourn.purging` keeps the two apart. A run goes with its plan first, so that what a purge
that died has left is recognized by the next. Records are read leniently: one that another
version of Sojourn wrote still says which files it names.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sojourn import environment
from sojourn.errors import UnreadableError
from sojourn.ledger import read_entry
from sojourn.mailbox import Mailbox, blobs, projects, runs_of
from sojourn.names import LeaseName
from sojourn.providers.local import LocalProvider
from sojourn.purging import purging
from sojourn.records import Record
from sojourn.storage import Store, batched

AT_LEAST_S = 86400.0  # environments and machine records are shared by all stores of this host


class Old(Record):
    """A run that goes, and the bytes that only it holds."""

    run: str
    project: str
    closed_at: float | None
    bytes: int


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
    preparing: bool
    names: frozenset[str]
    digest: str | None
    unreadable: str | None = None

    @property
    def open(self) -> bool:
        """Whether somebody may still go on with it; without a plan it is what an earlier purge left."""
        return self.closed_at is None and self.created_at is not None


@dataclass(frozen=True)
class _Found:
    """What of one project goes, and why the rest stays."""

    runs: tuple[_Run, ...]
    gone: tuple[Mailbox, ...] = ()
    old: tuple[Old, ...] = ()
    kept: tuple[Kept, ...] = ()
    blobs: dict[str, int] = field(default_factory=dict)
    needed: frozenset[str] = frozenset()


def _find(store: Store, project: str, which: _Which, now: float) -> _Found:
    runs = tuple(_look(mailbox, now) for mailbox in runs_of(store, project))
    damaged = [run for run in runs if run.unreadable]
    told = [run for run in damaged if run.mailbox.run not in which.named]
    kept = tuple(
        _reasons([run for run in runs if run in told or (which.means(run) and not run.unreadable)], which.before)
    )
    if told:
        return _Found(runs, kept=kept)  # nobody knows what that run names
    gone = [run for run in runs if not run.open and (run.closed_at or 0.0) < which.before and which.means(run)]
    needed = frozenset[str]().union(*(run.names for run in runs if run not in gone))
    # Of one that cannot be read nobody knows whether others share its files.
    sizes = {} if damaged or any(run.preparing for run in runs) else store.sizes(blobs(project))
    return _Found(
        runs=runs,
        gone=tuple(run.mailbox for run in gone),
        old=tuple(old for run in gone if (old := _old(run, needed))),
        kept=kept,
        blobs={key: size for key, size in sizes.items() if key not in needed},
        needed=needed,
    )


def _look(mailbox: Mailbox, now: float) -> _Run:
    try:
        return _read(mailbox, now)
    except (UnreadableError, ValueError, KeyError, TypeError, AttributeError) as error:
        why = error.message if isinstance(error, UnreadableError) else f"{type(error).__name__}: {error}"
        return _Run(mailbox, None, None, preparing=False, names=frozenset(), digest=None, unreadable=why)


def _read(mailbox: Mailbox, now: float) -> _Run:
    plan = mailbox.raw("plan")
    if plan is None:
        return _Run(mailbox, None, None, preparing=False, names=frozenset(), digest=None)
    parts = [mailbox.raw("bundle"), mailbox.raw("inputs")]
    if plan["environment"].get("kind") == "sent":
        parts.append(mailbox.raw("environment"))
    closed_at = _closed_at(mailbox)
    in_time = now < plan["deadline_at"] + plan["launch"]["grace"]
    return _Run(
        mailbox,
        created_at=plan["created_at"],
        closed_at=closed_at,
        preparing=closed_at is None and None in parts and in_time,
        names=frozenset(_sources([*parts, plan.get("resume")])),
        digest=plan["environment"]["digest"],
    )


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


def _old(run: _Run, needed: frozenset[str]) -> Old | None:
    mailbox = run.mailbox
    own = [size for key, size in mailbox.sizes().items() if key not in needed]
    if not own:
        return None  # what is left of it is a checkpoint that another run goes on from
    return Old(run=mailbox.run, project=mailbox.project, closed_at=run.closed_at, bytes=sum(own))


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
        return _find(store, project, which, now)
    with purging(store, project) as renew:
        found = _find(store, project, which, now)
        for batch in batched(found.blobs):
            renew()
            store.delete(*batch)
        if found.blobs:
            store.erase(blobs(project))
        for mailbox in found.gone:
            renew()
            mailbox.clear(keep=found.needed)
    return found


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
        for name in machines:
            provider.forget(name)
        environments = {
            digest: size for digest, size in environments.items() if environment.remove(digest, home, before)
        }
    return environments, tuple(machines)


def _run_of(lease: str) -> str | None:
    name = LeaseName.parse(lease)
    return name.run if name else None
