"""Time that passes only when nothing is left to do at this moment, and processes that can be killed.

A process is plain synchronous code in greenlets: whoever sleeps or calls something outside
hands over to the world, which goes on with whoever is next. One seed decides everything, so
the same seed is the same history.
"""

from __future__ import annotations

import contextlib
import heapq
import io
import random
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from greenlet import getcurrent, greenlet

from sojourn.agent.host.clock import LEAVE_LIMIT_S, Halt

T = TypeVar("T")
START = 1_900_000_000.0
TICK_S = 0.5  # a machine is that slow to wake; it saves most of the work here


class Killed(BaseException):
    """This process is dead. Nothing that it still tries on its way out has an effect."""


class World:
    """The agenda of what happens when."""

    def __init__(self, seed: int = 0) -> None:
        self.now = START
        self.chance = random.Random(seed)
        self.surprises: list[str] = []  # what ended a process that nobody killed
        self.history: list[str] = []
        self._agenda: list[tuple[float, int, Callable[[], object]]] = []
        self._number = 0
        self.processes: list[Process] = []
        self.hub = getcurrent()

    def at(self, moment: float, call: Callable[[], object]) -> None:
        """Make the call at this moment, which is not in the past."""
        self._number += 1
        heapq.heappush(self._agenda, (max(moment, self.now), self._number, call))

    def later(self, seconds: float, call: Callable[[], object]) -> None:
        """Make the call after this much time."""
        self.at(self.now + seconds, call)

    def process(self, name: str, skew: float = 0.0, on_machine: bool = False) -> Process:
        """A new process, whose clock is off by `skew` seconds."""
        made = Process(self, name, skew, on_machine)
        self.processes.append(made)
        return made

    def run(self, until: float) -> None:
        """Let things happen until this moment."""
        self.hub = getcurrent()
        with contextlib.redirect_stderr(io.StringIO()):
            while self._agenda and self._agenda[0][0] <= until:
                self.now, _, call = heapq.heappop(self._agenda)
                call()
        self.now = max(self.now, until)

    def end(self) -> None:
        """Kill what still lives, so that nothing of this world is left."""
        for process in self.processes:
            process.kill()
        with contextlib.redirect_stderr(io.StringIO()):
            for process in self.processes:
                process.bury()

    def note(self, text: str) -> None:
        """A line of this world's history."""
        self.history.append(f"{self.now - START:9.2f}  {text}")


class Process:
    """A program of some host: its threads of control, its clock, its death."""

    def __init__(self, world: World, name: str, skew: float, on_machine: bool) -> None:
        self.world = world
        self.name = name
        self.on_machine = on_machine
        self.clock: Any = (MachineClock if on_machine else VirtualClock)(self, skew)
        self.alive = True
        self.killed_at: float | None = None  # in the course of the history
        self.suspended = False
        self.asleep_until = 0.0  # while its host is suspended, nothing of it goes on
        self.done = False  # its main thread has come to its end
        self.version = ""  # of the product that it runs (`simulation.versions`)
        self._threads: list[greenlet] = []

    def start(self, body: Callable[[], object]) -> None:
        """Run `body` as the main thread, from this moment on."""

        def main() -> None:
            body()
            self.done = True

        self.thread(main)

    def thread(self, body: Callable[[], object]) -> None:
        """Run `body` beside what runs already."""
        thread = greenlet(lambda: self._guarded(body), parent=self.world.hub)
        self._threads.append(thread)
        self.world.later(0.0, lambda: self.resume(thread))

    def sleep(self, seconds: float) -> None:
        """Hand over to the world until this much time has passed."""
        self.check()
        thread = getcurrent()
        self.world.later(seconds, lambda: self.resume(thread))
        self.world.hub.switch()
        self.check()

    def check(self) -> None:
        """Raises Killed in a process that is dead."""
        if not self.alive:
            raise Killed(self.name)

    def kill(self) -> None:
        """As SIGKILL does it: from now on nothing that this process does has an effect."""
        self.alive = False
        self.killed_at = self.world.now

    def suspend(self, seconds: float) -> None:
        """The host sleeps: nothing of this process goes on until it wakes."""
        self.suspended = True
        self.asleep_until = self.world.now + seconds

    def bury(self) -> None:
        """Unwind what is left of a dead process."""
        for thread in self._threads:
            if thread and not thread.dead:
                thread.parent = getcurrent()
                thread.switch()

    def resume(self, thread: greenlet) -> None:
        """Let a thread that waits go on, once its host is awake."""
        if thread.dead:
            return
        if self.alive and self.asleep_until > self.world.now:
            self.world.at(self.asleep_until, lambda: self.resume(thread))
            return
        thread.switch()

    def _guarded(self, body: Callable[[], object]) -> None:
        try:
            self.check()
            body()
        except Killed:
            pass
        except Exception:
            if self.alive:
                self.world.surprises.append(f"{self.name}: {traceback.format_exc()}")


class VirtualClock:
    """The world's time as a process sees it; for the control side (`sojourn.waiting`) and for agents alike."""

    def __init__(self, process: Process, skew: float) -> None:
        self._process = process
        self._world = process.world
        self._skew = skew
        self._told = False  # by a store what time it is
        self._born = process.world.now

    def now(self) -> float:
        return self._world.now + self._skew

    def monotonic(self) -> float:
        return self._world.now

    def since_boot(self) -> float:
        return self._world.now - self._born

    def go_by(self, now: float) -> None:
        self._skew, self._told = now - self._world.now, True

    def jump(self, seconds: float) -> None:
        """Somebody sets the host's clock."""
        if not self._told:
            self._skew += seconds

    def sleep(self, seconds: float) -> None:
        self._process.sleep(seconds)

    @contextlib.contextmanager
    def every(self, seconds: float, call: Callable[[], bool]) -> Iterator[None]:
        over = False

        def again() -> None:
            while True:
                self.sleep(seconds)
                if over or not call():
                    return

        self._process.thread(again)
        try:
            yield
        finally:
            over = True

    def together(self, calls: Sequence[Callable[[], T]]) -> list[T]:
        return [call() for call in calls]

    def within(self, seconds: float, calls: Sequence[Callable[[], T]]) -> list[T | None]:
        return [call() for call in calls]


class MachineClock(VirtualClock):
    """The same for an agent, whose background calls are stopped by a call (`sojourn.agent.host.host.clock`)."""

    def sleep(self, seconds: float) -> None:
        super().sleep(max(seconds, TICK_S))

    def every(self, seconds: float, call: Callable[[], None]) -> Halt:  # type: ignore[override]
        over = busy = False

        def again() -> None:
            nonlocal busy
            while not over:
                busy = True
                call()
                busy = False
                self.sleep(seconds)

        def stop(limit_s: float = LEAVE_LIMIT_S) -> None:
            nonlocal over
            over, until = True, self.monotonic() + limit_s
            while busy and self.monotonic() < until:
                self.sleep(min(0.1, until - self.monotonic()))

        self._process.thread(again)
        return stop
