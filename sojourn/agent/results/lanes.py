"""Large files on their way into the store, beside all else: checkpoints in one lane, the rest in another.

What is large is a matter of how fast the store has taken files lately. A lane sends one file after the
other, the smaller ones first; the second lane waits between two pieces for as long as the first, or
anything small, is being sent. Nobody waits for a lane: whoever asked looks later what has arrived.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Collection, Iterator
from typing import BinaryIO, Callable

from sojourn.agent.files import Json
from sojourn.agent.host.clock import HOST, Clock, Halt
from sojourn.agent.results.tree import Sign, sign_of

MIB = 1 << 20
SHARE_S = 2.0  # what takes longer than this to send is large
LEAST, MOST, UNMEASURED = MIB, 64 * MIB, 8 * MIB  # bounds of what is small, and what it is before the first is sent
TELLS = 256 << 10  # of a smaller file, the time to send it says nothing
LOOK_S = 0.25
GIVE_WAY_S = 60.0  # a piece now and again goes through even where the first lane is never empty


class Torn(Exception):
    """The file is no longer what it was when it was asked for."""


class Pace:
    """How fast the store has taken files lately."""

    def __init__(self) -> None:
        self.rate: float | None = None  # bytes a second

    def sent(self, size: int, seconds: float) -> None:
        """Note a file that was sent."""
        if size >= TELLS:
            rate = size / max(seconds, 1e-3)
            self.rate = rate if self.rate is None else (self.rate + rate) / 2

    def is_large(self, size: int) -> bool:
        """Whether a file would hold up whoever waits for it."""
        return size > (UNMEASURED if self.rate is None else min(MOST, max(LEAST, self.rate * SHARE_S)))


class Job:
    """One large file, in the state that it had when it was asked for."""

    def __init__(self, path: str, sign: Sign, first: bool, file: BinaryIO | None, beside: bool = True) -> None:
        self.path = path
        self.sign = sign
        self.first = first
        self.beside = beside  # nobody waits for it
        self.file = file  # held where the script may rotate it away
        self.running = self.done = self.dropped = False
        self.line: Json | None = None
        self.error: Exception | None = None
        self.waited_s = 0.0

    def check(self, file: BinaryIO) -> None:
        """Raises Torn once the file is written to, or takes the room that the script needs."""
        if self.dropped:
            raise Torn(self.path)
        state = os.fstat(file.fileno())
        # It may be renamed, linked to or removed meanwhile: whoever looks at it next sees that by its sign.
        if not self.sign.is_like(sign_of(state)):
            raise Torn(self.path)
        if state.st_nlink == 0:
            disk = os.fstatvfs(file.fileno())
            if disk.f_bavail * disk.f_frsize < state.st_size:
                raise Torn(self.path)

    def close(self) -> None:
        """Let go of the file."""
        if self.file is not None:
            self.file.close()


class Lanes:
    """Both lanes of a node; `send` sends a file and gives its line, or raises Torn or anything else."""

    def __init__(self, send: Callable[[Job], Json], clock: Clock = HOST) -> None:
        self._send = send
        self._clock = clock
        self._lock = threading.Lock()
        self._jobs: dict[str, Job] = {}
        self._small = 0  # being sent just now
        self._halts: list[Halt] = []

    def ask(self, path: str, sign: Sign, first: bool, file: BinaryIO | None = None) -> None:
        """Have a file sent; of one path one state at a time, the newer one after it."""
        job = Job(path, sign, first, file)
        with self._lock:
            there = self._jobs.get(path)
            if there is not None and not there.dropped:
                if there.sign == sign:
                    there.first = there.first or first
                    job.close()
                    return
                if not first and (there.running or there.first):
                    job.close()
                    return
                self._drop(there)
            self._jobs[path] = job
        if not self._halts:
            self._halts = [self._clock.every(LOOK_S, lambda: self._work(True))]
            self._halts.append(self._clock.every(LOOK_S, lambda: self._work(False)))

    def sends(self, path: str, sign: Sign | None = None) -> bool:
        """Whether the file, in this state, is on its way or has just arrived."""
        job = self._jobs.get(path)
        return job is not None and not job.dropped and sign in (None, job.sign)

    def sizes(self) -> set[int]:
        """Of the files on their way: a blob of such a size may be what one of them is found to be."""
        with self._lock:
            return {job.sign.size for job in self._jobs.values()}

    def waiting(self) -> list[str]:
        """The paths of what is on its way."""
        with self._lock:
            return sorted(path for path, job in self._jobs.items() if not job.done)

    def arrived(self) -> bool:
        """Whether there is anything to collect."""
        return any(job.done for job in list(self._jobs.values()))

    def collect(self) -> list[Job]:
        """What has arrived, or never will, since the last time."""
        with self._lock:
            done = [job for job in self._jobs.values() if job.done]
            for job in done:
                del self._jobs[job.path]
        return done

    def leave(self, paths: Collection[str]) -> None:
        """Send no more of these; but for checkpoints, which are held."""
        with self._lock:
            for job in [self._jobs[path] for path in paths if path in self._jobs]:
                if not job.first and not job.done:
                    self._drop(job)

    def empty(self) -> list[str]:
        """Send nothing more; the paths of what was on its way."""
        with self._lock:
            left = [job for job in self._jobs.values() if not job.done]
            for job in left:
                self._drop(job)
        return sorted(job.path for job in left)

    def stop(self) -> None:
        """For good; a piece that is on its way is not waited for."""
        self.empty()
        for halt in self._halts:
            halt(0.0)
        self._halts = []

    @contextlib.contextmanager
    def hurry(self) -> Iterator[None]:
        """While this goes on, the second lane waits."""
        self._small += 1
        try:
            yield
        finally:
            self._small -= 1

    def give_way(self, job: Job) -> None:
        """Between two pieces of a file: wait for what matters more."""
        began = self._clock.monotonic()
        while not job.first and not job.dropped and self._is_busy() and self._clock.monotonic() - began < GIVE_WAY_S:
            self._clock.sleep(0.05)
        job.waited_s += self._clock.monotonic() - began

    def _is_busy(self) -> bool:
        return self._small > 0 or any(job.first and job.running for job in list(self._jobs.values()))

    def _drop(self, job: Job) -> None:
        job.dropped = True
        if not job.running:
            job.close()
        self._jobs.pop(job.path, None)

    def _work(self, first: bool) -> None:
        while True:
            job = self._next(first)
            if job is None:
                return
            try:
                job.line = self._send(job)
            except Torn:
                pass
            except Exception as error:  # of the file's own: the lane goes on with the next one
                job.error = error
            finally:
                job.close()
                job.done, job.running = True, False

    def _next(self, first: bool) -> Job | None:
        with self._lock:
            ready = [job for job in self._jobs.values() if job.first == first and not (job.running or job.done)]
            job = min(ready, key=lambda job: (job.sign.size, job.path), default=None)
            if job is not None:
                job.running = True
            return job
