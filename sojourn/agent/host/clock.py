"""A deadline that no change of the wall clock can move out, and the grace after it.

Two timers run, by the wall clock and by the time since boot; the earlier one wins. The
first is what the plan says, the second holds when somebody sets the clock back.
"""

from __future__ import annotations

import threading
import time
from typing import Callable, Protocol

LEAVE_LIMIT_S = 1.0  # for a call in the background to come back, once it is not wanted any more


class Halt(Protocol):
    """Ends what goes on in the background, and waits for a call that is on its way, but not for long."""

    def __call__(self, limit_s: float = LEAVE_LIMIT_S) -> None: ...


class Clock:
    """This machine's time; whoever simulates a machine brings another."""

    def now(self) -> float:
        """Seconds since the epoch, as this machine believes."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds that only ever grow."""
        return time.monotonic()

    def since_boot(self) -> float:
        """Seconds since the host started, sleep included where the system counts it."""
        clock = getattr(time, "CLOCK_BOOTTIME", None)
        return time.monotonic() if clock is None else float(time.clock_gettime(clock))

    def sleep(self, seconds: float) -> None:
        """Let this much time pass."""
        time.sleep(seconds)

    def every(self, seconds: float, call: Callable[[], None]) -> Halt:
        """Make the call now and again and again in the background, until what is returned is called."""
        over = threading.Event()

        def again() -> None:
            call()
            while not over.wait(seconds):
                call()

        def stop(limit_s: float = LEAVE_LIMIT_S) -> None:
            over.set()
            thread.join(max(0.0, limit_s))

        thread = threading.Thread(target=again, daemon=True)
        thread.start()
        return stop


HOST = Clock()


class Deadline:
    """A moment, in seconds since the epoch."""

    def __init__(self, at: float, clock: Clock = HOST) -> None:
        self.clock = clock
        self._set(at)

    def lower(self, at: float) -> None:
        """An earlier deadline replaces this one; a later one does not."""
        if at < self._at:
            self._set(at)

    def left(self) -> float:
        """Seconds until the deadline, negative after it."""
        return min(self._at - self.clock.now(), self._cut - self.clock.since_boot())

    def _set(self, at: float) -> None:
        self._at = at
        self._cut = self.clock.since_boot() + at - self.clock.now()


class Grace:
    """The time from the reason to end to the end: all of it after the deadline, or from `begin` on."""

    def __init__(self, deadline: Deadline, seconds: float) -> None:
        self.clock = deadline.clock
        self._deadline = deadline
        self._end_by: float | None = None
        self.seconds = seconds

    def begin(self, seconds: float | None = None) -> None:
        """The end has begun now; it may take the grace, or `seconds`, but never longer than deadline and grace."""
        left = self._deadline.left() + self.seconds
        self._end_by = self.clock.monotonic() + min(left, self.seconds if seconds is None else seconds)

    def latest(self) -> float:
        """When, on the monotonic clock, the last commit must be over."""
        now = self.clock.monotonic()
        left = self._deadline.left() + self.seconds if self._end_by is None else self._end_by - now
        return now + max(left - 0.05 * self.seconds, 0.2)
