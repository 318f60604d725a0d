"""The one module that waits. Every wait has a deadline and says what it waited for."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, TypeVar

from sojourn.errors import TransientError

T = TypeVar("T")
MOST_AT_ONCE = 64  # a cloud answers each question in some 30 ms
CLOCK_LIMIT_S = 60.0  # a host whose clock is further off its store's or its cloud's plans nothing
LEAVE_LIMIT_S = 5.0  # for a call in the background to come back, once it is not wanted any more


class Clock(Protocol):
    """Time as the orchestration sees it; the simulator brings its own."""

    def now(self) -> float:
        """Seconds since the epoch."""
        ...

    def monotonic(self) -> float:
        """Seconds that only ever grow, from an arbitrary start."""
        ...

    def since_boot(self) -> float:
        """Seconds that only ever grow and count a host's sleep too, from an arbitrary start."""
        ...

    def go_by(self, now: float) -> None:
        """From here on `now()` is this moment, which a store told, and the time since then."""
        ...

    def sleep(self, seconds: float) -> None:
        """Let this much time pass."""
        ...

    def every(self, seconds: float, call: Callable[[], bool]) -> AbstractContextManager[None]:
        """Make the call again and again in the background while the block runs, or until it answers False."""
        ...

    def together(self, calls: Sequence[Callable[[], T]]) -> list[T]:
        """Make the calls side by side; their answers in order. The first error counts, once all have ended."""
        ...

    def within(self, seconds: float, calls: Sequence[Callable[[], T]]) -> list[T | None]:
        """The same for so long; None in the place of an answer that did not come. Nobody waits for that call again."""
        ...


class SystemClock:
    """This computer's own clock, until it is told to go by a store's."""

    _ahead: float | None = None

    def now(self) -> float:
        """Seconds since the epoch."""
        return time.time() if self._ahead is None else self._ahead + self.since_boot()

    def since_boot(self) -> float:
        """Seconds that count sleep too; where the system has no such clock the wall clock's."""
        return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.time()

    def go_by(self, now: float) -> None:
        """Whatever is done to this computer's clock changes nothing any more."""
        self._ahead = now - self.since_boot()

    def monotonic(self) -> float:
        """Seconds since some start, whatever the wall clock does."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Block this thread."""
        time.sleep(seconds)

    @contextmanager
    def every(self, seconds: float, call: Callable[[], bool]) -> Iterator[None]:
        """Make the call in a thread of its own while the block runs, or until it answers False."""
        over = threading.Event()

        def again() -> None:
            while not over.wait(seconds) and call():
                pass

        thread = threading.Thread(target=again, name="every", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join(timeout=LEAVE_LIMIT_S)

    def together(self, calls: Sequence[Callable[[], T]]) -> list[T]:
        """Make the calls in threads."""
        answers = _asked(calls, MOST_AT_ONCE)
        wait(answers)
        return [answer.result() for answer in answers]

    def within(self, seconds: float, calls: Sequence[Callable[[], T]]) -> list[T | None]:
        """Make the calls in a thread each, since one that hangs must not keep another from its turn."""
        answers = _asked(calls, len(calls))
        wait(answers, timeout=seconds)
        return [answer.result() if answer.done() else None for answer in answers]


def _asked(calls: Sequence[Callable[[], T]], at_once: int) -> list[Future[T]]:
    """The answers to come. The threads are daemons: one that hangs does not keep the command from ending."""
    answers: list[Future[T]] = [Future() for _ in calls]
    todo = deque(zip(calls, answers, strict=True))

    def work() -> None:
        while True:
            try:
                call, answer = todo.popleft()
            except IndexError:
                return
            try:
                answer.set_result(call())
            except BaseException as error:  # it is raised where the answer is wanted
                answer.set_exception(error)

    for _ in range(min(at_once, len(calls))):
        threading.Thread(target=work, name="together", daemon=True).start()
    return answers


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
