"""The one module that waits. Every wait has a deadline and says what it waited for."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol, TypeVar

from sojourn.errors import TransientError

T = TypeVar("T")


class Clock(Protocol):
    """Time as the orchestration sees it; the simulator brings its own."""

    def now(self) -> float:
        """Seconds since the epoch."""
        ...

    def monotonic(self) -> float:
        """Seconds that only ever grow, from an arbitrary start."""
        ...

    def sleep(self, seconds: float) -> None:
        """Let this much time pass."""
        ...


class SystemClock:
    """This computer's own clock."""

    def now(self) -> float:
        """Seconds since the epoch."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds since some start, whatever the wall clock does."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Block this thread."""
        time.sleep(seconds)


def wait_for(look: Callable[[], T | None], *, what: str, limit_s: float, clock: Clock, every_s: float = 0.05) -> T:
    """What `look` returns once it is not None; asks often at first and ever less often.

    Raises TransientError after `limit_s` seconds, saying `what` did not happen.
    """
    end = clock.monotonic() + limit_s
    pause = every_s
    while (found := look()) is None:
        if clock.monotonic() >= end:
            raise TransientError(f"{what}: not within {limit_s:.0f} s")
        clock.sleep(pause)
        pause = min(pause * 1.2, max(every_s, 1.0))
    return found
