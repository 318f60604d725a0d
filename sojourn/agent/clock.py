"""A deadline that no change of the wall clock can move out, and the grace after it.

Two timers run, by the wall clock and by the time since boot; the earlier one wins. The
first is what the plan says, the second holds when somebody sets the clock back.
"""

from __future__ import annotations

import time


class Deadline:
    """A moment, in seconds since the epoch."""

    def __init__(self, at: float) -> None:
        self._set(at)

    def lower(self, at: float) -> None:
        """An earlier deadline replaces this one; a later one does not."""
        if at < self._at:
            self._set(at)

    def left(self) -> float:
        """Seconds until the deadline, negative after it."""
        return min(self._at - time.time(), self._cut - since_boot())

    def _set(self, at: float) -> None:
        self._at = at
        self._cut = since_boot() + at - time.time()


def since_boot() -> float:
    """Seconds since the host started, sleep included where the system counts it."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else float(time.clock_gettime(clock))


class Grace:
    """The time from the reason to end to the end: all of it after the deadline, or from `begin` on."""

    def __init__(self, deadline: Deadline, seconds: float) -> None:
        self._deadline = deadline
        self._end_by: float | None = None
        self.seconds = seconds

    def begin(self, seconds: float | None = None) -> None:
        """The end has begun now; it may take the grace, or `seconds`, but never longer than deadline and grace."""
        left = self._deadline.left() + self.seconds
        self._end_by = time.monotonic() + min(left, self.seconds if seconds is None else seconds)

    def latest(self) -> float:
        """When, on the monotonic clock, the last commit must be over."""
        now = time.monotonic()
        left = self._deadline.left() + self.seconds if self._end_by is None else self._end_by - now
        return now + max(left - 0.05 * self.seconds, 0.2)
