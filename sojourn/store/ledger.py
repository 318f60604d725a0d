"""The run's append-only log, and who may write to it.

Every entry is a create-only object numbered without gaps, so two writers can never both
succeed at the same place. An entry carries its writer's term. Whoever takes a run over
appends an entry with the next term; from then on the former owner's appends fail, and
since an append precedes every create, order and release, it stops before it does harm.
The scheme is a fencing token: https://martin.kleppmann.com/2016/02/08/how-to-do-distributed-locking.html
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

from pydantic import Field

from sojourn.decoding import decode
from sojourn.errors import SojournError, SupersededError, UnreadableError
from sojourn.records import Record
from sojourn.store.mailbox import Mailbox
from sojourn.store.storage import ExistsError
from sojourn.waiting import Clock

MISSED_BEATS = 3  # an owner is taken for dead when its heartbeat object stood still this many intervals
OWNER_PACES = 5  # an owner's looks at its own ledger are that many of the store's paces apart

Kind = Literal[
    "opened", "takeover", "handover", "intent", "refused", "created", "ordered", "lost", "outcome", "release", "gone",
    "closed",
]  # fmt: skip


class Entry(Record):
    """One line of the ledger."""

    sequence: int
    term: int
    owner: str
    at: float
    kind: Kind | str = Field(description="A later version may write others, which change nothing for this one")
    body: dict[str, Any] = Field(default_factory=dict)


class Beat(Record):
    """The owner's sign of life; only a change of it means anything."""

    owner: str
    term: int
    count: int


def read_entry(mailbox: Mailbox, sequence: int) -> Entry | None:
    """Line `sequence` (from 0) of a run's ledger, or None while it is not written. Raises UnreadableError."""
    body = mailbox.ledger_entry(sequence)
    return None if body is None else decode(body, Entry, f"{mailbox.control}/ledger/{sequence:06d}.json")


def this_process() -> str:
    """A name for this orchestrator that people can find: host and process id."""
    return f"{socket.gethostname()}:{os.getpid()}"


class Ledger:
    """One orchestrator's view of a run's ledger."""

    def __init__(self, mailbox: Mailbox, clock: Clock, owner: str | None = None, beat_every_s: float = 2.0) -> None:
        self.mailbox = mailbox
        self.clock = clock
        self.owner = owner or this_process()
        self.beat_every_s = beat_every_s
        self.term = 0
        self._entries: list[Entry] = []
        self._looked = float("-inf")  # on the monotonic clock
        self._count = 0
        self._lock = threading.Lock()

    def entries(self) -> list[Entry]:
        """Everything written so far, by anybody; an owner, before whom few write, looks no more often than need be."""
        if self.term > 0 and self.clock.monotonic() - self._looked < OWNER_PACES * self.mailbox.store.pace_s:
            return list(self._entries)
        return self._fresh()

    def _fresh(self) -> list[Entry]:
        self._looked = self.clock.monotonic()
        while (entry := read_entry(self.mailbox, len(self._entries))) is not None:
            self._entries.append(entry)
        return list(self._entries)

    def last(self, kind: Kind) -> Entry | None:
        """The newest entry of a kind."""
        return next((entry for entry in reversed(self.entries()) if entry.kind == kind), None)

    def append(self, kind: Kind, **body: Any) -> Entry:
        """Write the next entry. Raises SupersededError when the run has another owner now."""
        with self._lock:
            while True:
                entries = self._fresh()
                self._check_owner(entries)
                entry = Entry(
                    sequence=len(entries), term=self.term, owner=self.owner, at=self.clock.now(), kind=kind, body=body
                )
                try:
                    self.mailbox.write_ledger(entry.sequence, entry.to_bytes())
                except ExistsError:
                    continue
                self._entries.append(entry)
                return entry

    def confirm_owner(self) -> None:
        """Raise SupersededError when the run has another owner now."""
        self._check_owner(self._fresh())

    def join(self, take_over: bool = False) -> None:
        """Become the run's owner: open it, or take it over from an owner that left or died.

        Without `take_over` this watches the present owner for three heartbeats. Raises
        SupersededError while that owner lives.
        """
        entries = self.entries()
        if not entries:
            self.term = 1
            self.append("opened")
            return
        newest = entries[-1]
        if newest.kind != "handover" and not take_over and self._alive():
            raise SupersededError(
                f"{self.mailbox.run} is in the hands of {newest.owner}, which is alive",
                hint=f"watch it: sojourn logs {self.mailbox.run} -f, or: sojourn attach {self.mailbox.run} --take-over",
            )
        self.term = self._entries[-1].term + 1
        self.append("takeover", since=newest.owner)

    def beat(self) -> None:
        """Show that this owner lives."""
        self._count += 1
        self.mailbox.write("owner", Beat(owner=self.owner, term=self.term, count=self._count))

    @contextmanager
    def beating(self) -> Iterator[None]:
        """Beat in the background for as long as the block runs."""
        self.beat()
        with self.clock.every(self.beat_every_s, self._beat_again):
            yield

    def _beat_again(self) -> bool:
        """One more beat; False when the run has another owner, who would seem alive after its death by our beats."""
        try:
            newest = self._newest_beat()
            if newest is not None and newest.term > self.term:
                return False
            self.beat()
        except SojournError:
            pass  # a missed beat costs at most the ownership, and the next append will tell
        return True

    def _alive(self) -> bool:
        first = self._newest_beat()
        end = self.clock.monotonic() + MISSED_BEATS * self.beat_every_s
        while self.clock.monotonic() < end:
            self.clock.sleep(min(0.2, self.beat_every_s / 4))
            if self._newest_beat() != first:
                return True
        return False

    def _newest_beat(self) -> Beat | None:
        """The owner's newest sign of life; what cannot be read is none, and gives way to the next one."""
        try:
            return self.mailbox.read("owner", Beat)
        except UnreadableError:
            return None

    def _check_owner(self, entries: list[Entry]) -> None:
        if not entries:
            return
        newest = entries[-1]
        lost = newest.term > self.term or (newest.term == self.term and newest.owner != self.owner)
        if lost:
            # A takeover in the making raises its term first; this one lost the race for it, or was replaced.
            raise SupersededError(
                f"{self.mailbox.run} was taken over by {newest.owner}",
                hint=f"watch it: sojourn logs {self.mailbox.run} -f",
            )
