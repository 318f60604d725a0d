"""Passes on what a run says from a thread of its own: whoever holds machines never waits for whoever reads.

What waits to be shown is bounded. A script that prints faster than a terminal draws, or a reader that
does not read, costs lines, which are counted and told; the whole log is in the store.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sojourn.shorthand import counted

if TYPE_CHECKING:
    from sojourn.run.journey import Listener
    from sojourn.watch.follower import Status

DRAWN = 256 << 10  # bytes that may wait for a terminal: more is history before it is drawn
PIPED = 64 << 20  # and for a file or a program, which want all of it
AT_ONCE = 32 << 10  # passed on in one piece
PATIENCE_S = 30.0  # for a reader that reads nothing, once the run is over


@dataclass
class _Script:
    """Bytes of a machine's log."""

    node: int
    data: bytes


@dataclass
class _Dropped:
    """Lines that were not shown."""

    lines: int


_Item = _Script | _Dropped | Callable[[], None]


class Relay:
    """A listener that tells another one, in order."""

    _monotonic: Callable[[], float] = staticmethod(time.monotonic)

    def __init__(self, other: Listener, limit: int) -> None:
        self.run = "last"
        self._other = other
        self._limit = limit
        self._items: deque[_Item] = deque()
        self._waiting = 0  # bytes of the script's among them
        self._done = 0
        self._busy = False
        self._change = threading.Condition()
        self._thread: threading.Thread | None = None
        self._process = os.getpid()

    def started(self, step: str, ago: float = 0.0) -> None:
        """A step runs."""
        begun = self._monotonic() - ago
        self._put(lambda: self._other.started(step, self._monotonic() - begun))

    def finished(self, step: str, text: str, seconds: float, good: bool = True) -> None:
        """A step is done."""
        self._put(lambda: self._other.finished(step, text, seconds, good))

    def note(self, text: str) -> None:
        """Something the user may like to know."""
        self._put(lambda: self._other.note(text))

    def warn(self, text: str) -> None:
        """Something the user should know."""
        self._put(lambda: self._other.warn(text))

    def status(self, status: Status) -> None:
        """How the run stands now."""
        self._put(lambda: self._other.status(status))

    def script(self, node: int, data: bytes) -> None:
        """The next bytes of a machine's log."""
        self._put(_Script(node, data))

    def drain(self, patience_s: float = PATIENCE_S) -> bool:
        """Wait until all is passed on; False when nobody has taken anything for this long."""
        with self._change:
            done, until = self._done, self._monotonic() + patience_s
            while (self._items or self._busy) and self._monotonic() < until and self._is_running():
                self._change.wait(0.2)
                if self._done != done:
                    done, until = self._done, self._monotonic() + patience_s
            return not (self._items or self._busy)

    def _is_running(self) -> bool:
        return self._thread is not None and self._process == os.getpid()

    def _put(self, item: _Item) -> None:
        if self._process != os.getpid():  # of a fork, which has no threads
            self._pass_on(item)
            return
        with self._change:
            self._items.append(item)
            if isinstance(item, _Script):
                self._waiting += len(item.data)
                if self._waiting > self._limit:
                    self._drop()
            if self._thread is None:
                self._start()
            self._change.notify_all()

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._work, name="relay", daemon=True)
        self._thread.start()

    def _drop(self) -> None:
        """Of the script's bytes, the older half goes; what else was said stays, in its place."""
        kept: deque[_Item] = deque()
        for item in self._items:
            if not isinstance(item, _Script):
                kept.append(item)
                continue
            surplus = min(len(item.data), max(0, self._waiting - self._limit // 2))
            self._waiting -= surplus
            if surplus:
                kept.append(_Dropped(item.data.count(b"\n", 0, surplus)))
            if rest := item.data[surplus:]:
                kept.append(_Script(item.node, rest))
        self._items = _joined(kept)

    def _work(self) -> None:
        while True:
            with self._change:
                self._busy = False
                self._change.notify_all()
                while not self._items:
                    self._change.wait()
                item = self._next()
                self._busy = True
            with suppress(Exception):  # an audience that cannot be told is no reason to leave machines alone
                self._pass_on(item)
            self._done += 1

    def _next(self) -> _Item:
        """The next of them; small pieces of one log together."""
        item = self._items.popleft()
        if not isinstance(item, _Script):
            return item
        pieces = [item.data]
        while self._items and sum(map(len, pieces)) < AT_ONCE:
            following = self._items[0]
            if not isinstance(following, _Script) or following.node != item.node:
                break
            pieces.append(following.data)
            self._items.popleft()
        data = b"".join(pieces)
        self._waiting -= len(data)
        return _Script(item.node, data)

    def _pass_on(self, item: _Item) -> None:
        if isinstance(item, _Script):
            self._other.script(item.node, item.data)
        elif isinstance(item, _Dropped):
            what = counted(item.lines, "line") if item.lines else "part of a line"
            self._other.note(f"… {what} not shown: sojourn logs {self.run}")
        else:
            item()


def _joined(items: deque[_Item]) -> deque[_Item]:
    """With counts of dropped lines that follow each other in one."""
    joined: deque[_Item] = deque()
    for item in items:
        last = joined[-1] if joined else None
        if isinstance(item, _Dropped) and isinstance(last, _Dropped):
            last.lines += item.lines
        else:
            joined.append(item)
    return joined
