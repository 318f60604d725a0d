"""What a run says, on its way to somebody who may not read: the relay of a command line, over simulated threads."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from greenlet import getcurrent, greenlet

from cli.relay import Relay
from simulation.world import START, Process

LIMIT = 10_000  # bytes that may wait to be shown
SLOW_S = 20.0


@dataclass(frozen=True)
class Screen:
    """How a reader behaves for some time, in seconds of the history."""

    # `stops`: takes nothing; `is slow`: takes its time for each thing; `is full`: takes nothing, and says so
    what: Literal["stops", "is slow", "is full"] = "stops"
    after: int = 0
    seconds: int = 100_000


class Reader:
    """Whoever is told, at the other end."""

    def __init__(self, process: Process, screen: Screen | None) -> None:
        self._process = process
        self._screen = screen

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_, **__: self._take()

    def _take(self) -> None:
        screen, now = self._screen, self._process.world.now - START
        if screen is None or not screen.after <= now < screen.after + screen.seconds:
            return
        if screen.what == "is full":
            raise OSError(errno.ENOSPC, "No space left on device")
        self._process.sleep(SLOW_S if screen.what == "is slow" else screen.after + screen.seconds - now)


class SimulatedRelay(Relay):
    """The real one, whose thread is one of a simulated process."""

    def __init__(self, process: Process, screen: Screen | None) -> None:
        reader: Any = Reader(process, screen)
        super().__init__(reader, LIMIT)
        self._simulated = process
        self._change = Change(process)  # type: ignore[assignment]
        self._monotonic = process.clock.monotonic

    def _start(self) -> None:
        self._thread = object()  # type: ignore[assignment]
        self._simulated.thread(self._work)


class Change:
    """A condition variable between the threads of a simulated process, of which one runs at a time."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._waiting: list[greenlet] = []

    def __enter__(self) -> Change:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def wait(self, timeout: float | None = None) -> None:
        thread = getcurrent()
        self._waiting.append(thread)
        if timeout is not None:
            self._process.world.later(timeout, lambda: self._wake(thread))
        self._process.world.hub.switch()
        self._process.check()

    def notify_all(self) -> None:
        for thread in list(self._waiting):
            self._process.world.later(0.0, lambda thread=thread: self._wake(thread))

    def _wake(self, thread: greenlet) -> None:
        if thread in self._waiting:
            self._waiting.remove(thread)
            self._process.resume(thread)
