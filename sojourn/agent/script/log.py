"""The script's output on its way from a pipe into the store, without loss and in bounded memory."""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
from collections import deque

from sojourn.agent.errors import Exists, say
from sojourn.agent.results.packs import Packs
from sojourn.agent.script.mask import Mask
from sojourn.agent.stores.store import MIB, Store

LOOK_S = 0.1  # between two looks for the rest, once the script is over


class Log:
    """What the script prints, cut into create-only segments, in the order in which it came.

    One thread reads the pipe, another writes the store; between them at most 64 MiB wait
    while the store does not answer, then the script does.
    """

    SEGMENT = MIB
    LIMIT = 64 * MIB
    SILENCE_S = 1.0
    DRAIN_S = 10.0
    PACK_S = 5.0
    KEPT = 64 << 10

    def __init__(self, store: Store, prefix: str, packs: Packs, mask: Mask) -> None:
        self._store = store
        self._packs = packs
        self._prefix = prefix
        self._mask = mask
        self._reading, self.pipe = os.pipe()
        self._awaited, self._waker = os.pipe()  # says that the script is over, for a pipe may be silent for hours
        with contextlib.suppress(OSError, ImportError):
            import fcntl

            fcntl.fcntl(self.pipe, 1031, MIB)  # F_SETPIPE_SZ: fewer, larger reads
        self._changed = threading.Condition()
        self._waiting: deque[bytes] = deque()
        self._size = 0
        self._oldest = 0.0
        self._closed = False
        self._abandoned = threading.Event()
        self._written = threading.Event()
        self._over: float | None = None
        self._tail = b""
        self.segments = 0
        self.bytes = 0
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._writer = threading.Thread(target=self._write, daemon=True)

    def start(self) -> None:
        """Begin to read; the script holds the other end of the pipe now."""
        os.close(self.pipe)
        self._reader.start()
        self._writer.start()

    def finish(self, seconds: float) -> bool:
        """Read to the end, or to a second of silence when a stranger holds the pipe. False when bytes were lost."""
        until = time.monotonic() + max(seconds, 0.5)
        self._over = time.monotonic()
        os.write(self._waker, b"!")
        self._reader.join(until - time.monotonic())
        whole = self._written.wait(max(0.0, until - time.monotonic()))
        self._abandoned.set()
        self._writer.join(max(0.0, min(until - time.monotonic(), self.PACK_S)))
        return whole

    def tail(self) -> bytes:
        """The last bytes, masked."""
        return self._tail

    def _read(self) -> None:
        heard = time.monotonic()
        while not self._abandoned.is_set():
            if not self._more(0.0):
                self._add(self._mask.rest())
            if self._more(LOOK_S):
                chunk = os.read(self._reading, MIB // 4)
                if not chunk:
                    break
                heard = time.monotonic()
                self._add(self._mask.feed(chunk))
            if self._drained(heard):
                break
        self._add(self._mask.close())
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _more(self, seconds: float) -> bool:
        """Whether there is something to read, at once or within so long; while the script runs nobody looks in vain."""
        if self._over is None and seconds:
            return self._reading in select.select([self._reading, self._awaited], [], [])[0]
        return bool(select.select([self._reading], [], [], seconds)[0])

    def _drained(self, heard: float) -> bool:
        if self._over is None:
            return False
        now = time.monotonic()
        return now - max(heard, self._over) > self.SILENCE_S or now - self._over > self.DRAIN_S

    def _add(self, chunk: bytes) -> None:
        if not chunk:
            return
        self._tail = (self._tail + chunk)[-self.KEPT :] if len(chunk) < self.KEPT else chunk[-self.KEPT :]
        with self._changed:
            while self._size > self.LIMIT and not self._abandoned.is_set():
                self._changed.wait(1.0)
            if not self._waiting:
                self._oldest = time.monotonic()
            self._waiting.append(chunk)
            self._size += len(chunk)
            self._changed.notify_all()

    def _write(self) -> None:
        while True:
            body = self._next()
            if not body:
                break
            self._persist(body)
        self._written.set()
        self._packs.close()

    def _next(self) -> bytes:
        """The next segment once it is due; empty at the end."""
        with self._changed:
            while not self._closed and not self._due():
                left = self._interval() - (time.monotonic() - self._oldest)
                self._changed.wait(max(left, 0.001) if self._waiting else None)
            chunks, size = [], 0
            while self._waiting and size < self.SEGMENT:
                chunks.append(self._waiting.popleft())
                size += len(chunks[-1])
            self._size -= size
            self._oldest = time.monotonic()
            self._changed.notify_all()
        return b"".join(chunks)

    def _due(self) -> bool:
        aged = bool(self._waiting) and time.monotonic() - self._oldest >= self._interval()
        return self._size >= self.SEGMENT or aged

    def _interval(self) -> float:
        # A young log is watched by somebody; an old one should not become a million objects.
        # Where each is a request, the first come every second or so, and later ones less and less often.
        pace = self._store.pace_s
        return min(max(2.0, 2 * pace), max(0.25, pace / 2, self.segments * (1 + pace) / 160))

    def _persist(self, body: bytes) -> None:
        pause = 0.1
        while not self._abandoned.is_set():
            try:
                self._store.create(f"{self._prefix}/{self.segments:08d}", body)
            except Exists:
                self.segments += 1
            except OSError as error:
                say(f"log segment {self.segments} waits: {error}")
                self._abandoned.wait(pause)
                pause = min(pause * 2, 10.0)
            else:
                self.segments += 1
                self.bytes += len(body)
                self._packs.add(self.segments - 1, body)
                return
