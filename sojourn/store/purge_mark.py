"""Keeps a purge of shared blobs and a run that is being prepared apart, by two announcements.

A run writes its plan before it looks for a blob, and a purge writes its mark before it looks
for runs. So either the purge sees the run, and leaves the project's blobs alone, or the run
sees the mark, and waits. A run that saw a blob there and does not send it will find it there.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sojourn.errors import FullError, TransientError
from sojourn.records import Record
from sojourn.store.ledger import this_process
from sojourn.store.mailbox import purge_mark
from sojourn.store.storage import ExistsError, Store
from sojourn.waiting import Clock, wait_for

RENEW_S = 60.0  # the mark says that its purge lives
STALE_S = 600.0  # after this long without a renewal it says that its purge has died


class Mark(Record):
    """Who purges."""

    owner: str


def wait_until_purged(store: Store, project: str, clock: Clock) -> None:
    """Until no purge is removing blobs of the project. To be called after the plan is written."""
    wait_for(
        lambda: None if _is_marked(store, purge_mark(project)) else True,
        what=f"`sojourn purge` is removing blobs of {project}; this run could begin",
        limit_s=2 * STALE_S,
        clock=clock,
        every_s=0.2,
    )


@contextmanager
def purging(store: Store, project: str) -> Iterator[Callable[[], None]]:
    """Hold the project's mark; what is yielded renews it, and must be called between any two removals."""
    key, mark = purge_mark(project), Mark(owner=f"{this_process()} {secrets.token_hex(8)}").to_bytes()
    if not _is_marked(store, key):
        store.delete(key)  # what a purge that died has left
    try:
        try:
            store.create(key, mark)
        except FullError:  # a purge is what makes room; a name alone takes none
            mark = b""
            store.create(key, mark)
    except ExistsError:
        raise TransientError("another `sojourn purge` is at work", hint="try again when it has ended") from None
    renewed, written = time.monotonic(), store.modified(key)

    def ours() -> bool:
        return store.find(key) == mark and store.modified(key) == written

    def renew() -> None:
        nonlocal renewed, written
        if time.monotonic() - renewed > STALE_S / 2 or not ours():
            raise TransientError("this purge was held up for too long", hint="go on with it: sojourn purge --yes")
        if time.monotonic() - renewed > RENEW_S:
            store.put(key, mark)
            renewed, written = time.monotonic(), store.modified(key)

    try:
        yield renew
    finally:
        if ours():
            store.delete(key)


def _is_marked(store: Store, key: str) -> bool:
    written = store.modified(key)
    if written is None:
        return False
    now = store.now()  # by the clock that dated the mark
    return now is None or now - written.timestamp() < STALE_S
