"""Tells Prefect what a run does: phases and warnings in its log, never the whole output of a script.

The whole log is in the store. Prefect gets at most one line a second of rank 0, and after a
while one in ten, so that a script that prints without end neither fills its database nor
delays the run's end, nor pays for what its server writes.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable

from sojourn.harmless import line, plain
from sojourn.run.journey import Listener
from sojourn.watch.follower import Status
from tasks.artifacts import Progress

LINES_EVERY_S, SELDOM_S = 1.0, 10.0
LATE = 0.05  # of the time that it has printed for, its next line may come so much later


class PrefectListener:
    """Writes to the flow run's log, and tells other listeners too."""

    def __init__(
        self, logger: logging.Logger | logging.LoggerAdapter[logging.Logger], others: Iterable[Listener] = ()
    ) -> None:
        self._logger = logger
        self._others = tuple(others)
        self._progress = Progress()
        self._spoke_at = 0.0
        self._began_at: float | None = None

    def started(self, step: str, ago: float = 0.0) -> None:
        """A step runs."""
        for other in self._others:
            other.started(step, ago)

    def finished(self, step: str, text: str, seconds: float, good: bool = True) -> None:
        """A step is done."""
        if step == "train":
            self._progress.ended(text, good)
        self._logger.log(logging.INFO if good else logging.ERROR, "%s: %s (%.1f s)", step, line(text), seconds)
        for other in self._others:
            other.finished(step, text, seconds, good)

    def note(self, text: str) -> None:
        """Something the user may like to know."""
        self._logger.info("%s", plain(text))
        for other in self._others:
            other.note(text)

    def warn(self, text: str) -> None:
        """Something the user should know."""
        self._logger.warning("%s", plain(text))
        for other in self._others:
            other.warn(text)

    def status(self, status: Status) -> None:
        """How the run stands: an artifact, and no line in a log."""
        self._progress.show(status)
        for other in self._others:
            other.status(status)

    def script(self, node: int, data: bytes) -> None:
        """The next bytes of a machine's log: the last whole line of them, now and then."""
        for other in self._others:
            other.script(node, data)
        now = time.monotonic()
        lines = [line for line in data.splitlines() if line.strip()]
        self._began_at = now if self._began_at is None else self._began_at
        every = max(LINES_EVERY_S, min(SELDOM_S, LATE * (now - self._began_at)))
        if node == 0 and lines and now - self._spoke_at >= every:
            self._spoke_at = now
            self._logger.info("%s", plain(lines[-1][:500].decode("utf-8", errors="replace")))
