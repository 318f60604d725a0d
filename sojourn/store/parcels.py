"""The content of committed files, of which many small ones may lie in one object, a parcel.

Whoever reads them in order fetches each parcel once: the newest few are kept. Of files that lie alone the next ones are
fetched ahead, where they are said to be wanted and each costs a request.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from functools import partial

from sojourn.errors import SojournError
from sojourn.records import FileEntry
from sojourn.store.storage import Store

MOST = 16 << 20  # bytes of a parcel; agents make them of a quarter
KEPT = 3
AHEAD = 16  # files, at once
AHEAD_SIZE = 1 << 20  # bytes of each, at most


class Contents:
    """Reads files of manifests out of one store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._parcels: OrderedDict[str, bytes] = OrderedDict()
        self._coming: deque[tuple[str, int]] = deque()
        self._ahead: dict[str, bytes | Exception] = {}
        self._expected: set[str] = set()

    def __reduce__(self) -> tuple[type[Contents], tuple[Store]]:
        """What was read does not travel to another process with the store."""
        return Contents, (self._store,)

    def expect(self, entries: Iterable[FileEntry]) -> None:
        """These will be asked for in this order, perhaps not all of them."""
        small = {one.source: one.size for one in entries if one.offset is None and one.size <= AHEAD_SIZE}
        self._ahead.clear()
        self._coming = deque(small.items() if self._store.root is None else ())
        self._expected = {source for source, _ in self._coming}

    def stream(self, entry: FileEntry) -> Iterator[bytes]:
        """A file in pieces. Raises MissingKeyError; whether it is what was committed is for the reader to check."""
        if entry.offset is None and entry.source in self._expected:
            yield self._ahead_of(entry.source)
        elif entry.offset is None:
            yield from self._store.stream(entry.source, size=entry.size)
        else:
            yield self._parcel(entry.source)[max(0, entry.offset) : max(0, entry.offset) + max(0, entry.size)]

    def get(self, entry: FileEntry) -> bytes:
        """A whole file."""
        return b"".join(self.stream(entry))

    def _ahead_of(self, key: str) -> bytes:
        """A file that was expected; with it come the next ones."""
        if key not in self._ahead:
            self._expected.difference_update(self._ahead)  # nobody asked for those
            while self._coming[0][0] != key:
                self._expected.discard(self._coming.popleft()[0])
            some = [self._coming.popleft() for _ in range(min(AHEAD, len(self._coming)))]
            found = self._store.clock.together([partial(self._tried, *one) for one in some])
            self._ahead = {source: one for (source, _), one in zip(some, found, strict=True)}
        self._expected.discard(key)
        tried = self._ahead.pop(key)
        if isinstance(tried, Exception):
            raise tried
        return tried

    def _tried(self, key: str, size: int) -> bytes | Exception:
        try:
            return b"".join(self._store.stream(key, size=size))
        except Exception as error:  # whoever asks for this file hears of it
            return error

    def _parcel(self, key: str) -> bytes:
        with self._lock:
            if key not in self._parcels:
                self._parcels[key] = self._fetched(key)
                while len(self._parcels) > KEPT:
                    self._parcels.popitem(last=False)
            self._parcels.move_to_end(key)
            return self._parcels[key]

    def _fetched(self, key: str) -> bytes:
        pieces, size = [], 0
        for piece in self._store.stream(key):
            pieces.append(piece)
            size += len(piece)
            if size > MOST:
                raise SojournError(f"{key} is said to hold small files, and has more than {MOST:,} bytes")
        return b"".join(pieces)
