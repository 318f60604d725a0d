"""Numbered small pieces, written once more in packs, so that what grew for a day is read in a dozen requests.

Four packs in a row make one four times as large, up to a limit, and each piece stays where it is: packs are for
whoever reads from the start, and nothing is lost with one. A pack is a line of JSON that tells its first number, and of
each piece the length and time, and then the pieces; `sojourn/store/pieces.py` reads it.
"""

from __future__ import annotations

import itertools
import json
from typing import NamedTuple

from sojourn.agent.errors import Exists, say
from sojourn.agent.host.clock import HOST, Clock
from sojourn.agent.stores.store import MIB, Store

TOGETHER = 4
LIMIT = 4 * MIB  # of a pack
LARGE = 256 << 10  # a piece of this size is well worth a request


class _Pack(NamedTuple):
    """Some pieces in a row."""

    level: int
    first: int
    bodies: list[bytes]
    times: list[float]
    key: str | None

    @property
    def size(self) -> int:
        return sum(len(body) for body in self.bodies)

    @property
    def end(self) -> int:
        return self.first + len(self.bodies)


class Packs:
    """The packs of one node's pieces of a kind; to be told of each piece once it is stored."""

    def __init__(self, store: Store, prefix: str, clock: Clock = HOST) -> None:
        self._store = store
        self._prefix = prefix
        self._clock = clock
        self._open: list[_Pack] = []  # in the order of their numbers, without gaps

    def add(self, number: int, body: bytes) -> None:
        """A piece was stored; it may complete a pack."""
        if len(body) >= LARGE:
            self.close()
            return
        if self._open and self._open[-1].end != number:
            self._open = []
        self._open.append(_Pack(0, number, [body], [self._clock.now()], None))
        count, full = self._complete()
        if count > 1:
            self._open[-count:] = self._merged(self._open[-count:])
        if full:
            self._open = []

    def close(self) -> None:
        """Write what is there in as few packs as may be; what follows begins anew."""
        some: list[_Pack] = []
        for one in self._open:
            if sum(other.size for other in some) + one.size > LIMIT:
                self._merged(some)
                some = []
            some.append(one)
        self._merged(some)
        self._open = []

    def _complete(self) -> tuple[int, bool]:
        """How many of the last packs make a larger one, and whether that is as large as one may be."""
        count, size = 1, self._open[-1].size
        for level in itertools.count():
            more = self._open[: len(self._open) - count][-TOGETHER + 1 :]
            if len(more) < TOGETHER - 1 or any(one.level != level for one in more):
                return count, False
            size += sum(one.size for one in more)
            if size > LIMIT:
                return count, True
            count += len(more)
        raise AssertionError

    def _merged(self, some: list[_Pack]) -> list[_Pack]:
        """One pack in place of these; none when it cannot be written."""
        if len(some) < 2:
            return some
        bodies = [body for one in some for body in one.bodies]
        times = [at for one in some for at in one.times]
        key = f"{self._prefix}/{some[0].first:08d}-{len(bodies)}"
        header = {"first": some[0].first, "sizes": [len(body) for body in bodies], "times": times}
        try:
            self._store.create(key, b"".join([json.dumps(header).encode(), b"\n", *bodies]), durable=True)
        except Exists:
            pass  # its answer was lost
        except OSError as error:
            say(f"a pack of small pieces is not written: {error}")
            return []
        for one in some:
            if one.key is not None:
                self._delete(one.key)
        return [_Pack(some[0].level + 1, some[0].first, bodies, times, key)]

    def _delete(self, key: str) -> None:
        try:
            self._store.delete(key)
        except OSError as error:
            say(f"a pack that another holds stays: {error}")
