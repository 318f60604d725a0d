"""An object as a stream: over one connection, or a large one over several at once.

An answer that is cut off is taken up where it ended, from the same version of the object.
"""

from __future__ import annotations

import errno
import io
import os
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Callable, Dict, Generator

from sojourn.agent.errors import StoreError
from sojourn.agent.stores.wire import Answer

MIB = 1 << 20
PIECE = 8 * MIB
LARGE = 4 * PIECE
LANES = 4  # pieces on their way at once, and in memory
CUTS = 6  # in a row, without a byte between them

Ask = Callable[[Dict[str, str]], Answer]


class Blob(io.RawIOBase):
    """The bytes of one object. `ask` requests it with the headers given. Raises FileNotFoundError."""

    def __init__(self, ask: Ask, key: str) -> None:
        answer = ask({})
        if answer.status == 404:
            answer.read()
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), key)
        if answer.status != 200:
            answer.close()
            raise StoreError(errno.EIO, f"{key}: the store answers {answer.status}")
        self._ask = ask
        self._key = key
        self._tag = answer.headers.get("etag", "")
        self.size = _length(answer, key)
        self._lanes = ThreadPoolExecutor(LANES) if self.size > LARGE else None
        end = PIECE if self._lanes else self.size
        self._first = answer
        self._now = self._pieces(0, end, answer)
        self._coming: deque[Future[bytes]] = deque()
        self._asked = end
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Up to so many bytes; 0 at the end. Raises StoreError."""
        self._ask_ahead()
        if not self._rest:
            self._rest = memoryview(next(self._now, b"") or self._next_lane())
        count = min(len(self._rest), len(buffer))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count

    def readall(self) -> bytes:
        """All that is left; the base class would go by pages."""
        return b"".join(iter(lambda: self.read(MIB) or b"", b""))

    def close(self) -> None:
        """Leave the rest where it is."""
        if not self.closed and self._lanes is not None:
            for job in self._coming:
                job.cancel()
            self._lanes.shutdown(wait=False)
        self._now.close()
        self._first.close()
        super().close()

    def _ask_ahead(self) -> None:
        while self._lanes is not None and self._asked < self.size and len(self._coming) < LANES:
            start, self._asked = self._asked, min(self._asked + PIECE, self.size)
            self._coming.append(self._lanes.submit(self._piece, start, self._asked))

    def _next_lane(self) -> bytes:
        return self._coming.popleft().result() if self._coming else b""

    def _piece(self, start: int, end: int) -> bytes:
        return b"".join(self._pieces(start, end, None))

    def _pieces(self, at: int, end: int, answer: Answer | None) -> Generator[bytes, None, None]:
        """The bytes from `at` to `end` as they come, asked for again after each cut."""
        cuts = 0
        try:
            while at < end:
                try:
                    answer = answer or self._range(at, end)
                    body = answer.read(min(MIB, end - at))
                except StoreError:
                    raise
                except OSError as error:
                    answer, cuts = None, cuts + 1
                    if cuts > CUTS:
                        raise StoreError(errno.EIO, f"{self._key}: {error.strerror or error}") from error
                    time.sleep(0.1 * 2**cuts)
                    continue
                if not body:
                    raise StoreError(errno.EIO, f"{self._key} ends at byte {at} of {self.size}")
                at, cuts = at + len(body), 0
                yield body
        finally:
            if answer is not None:
                answer.close()

    def _range(self, at: int, end: int) -> Answer:
        answer = self._ask({"range": f"bytes={at}-{end - 1}", **({"if-match": self._tag} if self._tag else {})})
        if answer.status != 206:
            answer.close()
            raise StoreError(errno.EIO, f"{self._key} has changed while it was read (the store says {answer.status})")
        return answer


def _length(answer: Answer, key: str) -> int:
    """How long the object is. An answer that does not say so would be taken for an empty one."""
    said = answer.headers.get("content-length", "")
    if not said.isdecimal():
        answer.close()
        why = "the store does not say how long it is, perhaps because of a proxy on the way that sends it in chunks"
        raise StoreError(errno.EIO, f"{key}: {why}")
    return int(said)
