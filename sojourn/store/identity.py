"""Which store lies at an address: a name is no proof, for another disk may be mounted there, or a bucket be made anew.

Whoever uses a store first writes one small object at random into it, once; every host that has runs there remembers
it. A copy of a store has its identity too: the two are told apart by where they lie (`Store.place`).
"""

from __future__ import annotations

import secrets
import socket
from datetime import UTC, datetime

from pydantic import Field

from sojourn.decoding import decode
from sojourn.errors import TransientError, UnreadableError
from sojourn.records import Record

KEY = "control/store.json"
LARGEST = 4096  # bytes; it has some hundred
SHOWN = 8  # letters of an identity are enough for a person


class OtherStoreError(TransientError):
    """What lies at the address is another store than the one that is known by it."""


class Identity(Record):
    """What tells a store from any other."""

    id: str = Field(min_length=1, max_length=64, description="At random")
    made_at: float = Field(description="When somebody used the store first, by that computer's clock")
    host: str = Field(max_length=253, description="Who that was")

    def __str__(self) -> str:
        try:
            day = f"{datetime.fromtimestamp(self.made_at, UTC):%Y-%m-%d}"
        except (ValueError, OverflowError, OSError):
            day = "at an odd time"
        return f"{self.id[:SHOWN]}, made on {day} by {self.host}"


def mint(now: float) -> Identity:
    """One that no other store has."""
    return Identity(id=secrets.token_hex(16), made_at=now, host=socket.gethostname()[:253])


def check(url: str, known: Identity, there: bytes | None) -> None:
    """Raise OtherStoreError where what says which store lies at `url` names another, or nothing does (None)."""
    try:
        found = None if there is None else decode(there, Identity, KEY)
    except UnreadableError:
        raise _other(url, known, f"what says which one it is cannot be read ({KEY})") from None
    if found is None:
        raise _other(url, known, f"what lies there now has no {KEY}")
    if found.id != known.id:
        raise _other(url, known, f"there now: {found}")


def _other(url: str, known: Identity, found: str) -> OtherStoreError:
    return OtherStoreError(
        f"store: {url} is another store than the one in which this host has runs; known: {known}; {found}",
        hint="mount the right one, or put it back: nothing is begun, ended or removed by what lies there; "
        f"if it is to take the other's place: sojourn runs --forget {url}",
    )
