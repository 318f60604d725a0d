"""What `--json` writes to standard output: one JSON object a line, as things happen. docs/events.md says which.

What people read goes to standard error then, so that the stream can be piped.
"""

from __future__ import annotations

import codecs
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from cli.console import go_on_unread
from sojourn.errors import ExitCode, SojournError
from sojourn.plan.planning import Plan
from sojourn.receipts import Receipt
from sojourn.results.report import Report
from sojourn.run.journey import Listener
from sojourn.watch.follower import Status

LONGEST = 64 << 10  # of a line that has not ended yet; then it comes in pieces


class EventListener:
    """Writes an event for everything that it is told, and tells another listener too."""

    def __init__(self, other: Listener) -> None:
        self._other = other
        self._decoders: dict[int, codecs.IncrementalDecoder] = {}
        self._rest: dict[int, str] = {}

    def started(self, step: str, ago: float = 0.0) -> None:
        """A step runs."""
        emit("started", step=step, ago=round(ago, 3))
        self._other.started(step, ago)

    def finished(self, step: str, text: str, seconds: float, good: bool = True) -> None:
        """A step is done."""
        for node, line in self._rest.items():
            if line:
                emit("log", node=node, line=line)
        self._rest = {}
        emit("finished", step=step, text=text, seconds=round(seconds, 3), good=good)
        self._other.finished(step, text, seconds, good)

    def note(self, text: str) -> None:
        """Something the user may like to know."""
        emit("note", text=text, warning=False)
        self._other.note(text)

    def warn(self, text: str) -> None:
        """Something the user should know."""
        emit("note", text=text, warning=True)
        self._other.warn(text)

    def status(self, status: Status) -> None:
        """How the run stands now."""
        emit("status", **status.model_dump(mode="json"))
        self._other.status(status)

    def script(self, node: int, data: bytes) -> None:
        """The next bytes of a machine's log, by lines; people read them in the events."""
        decoder = self._decoders.setdefault(node, codecs.getincrementaldecoder("utf-8")("replace"))
        *lines, rest = (self._rest.get(node, "") + decoder.decode(data)).split("\n")
        if len(rest) > LONGEST:
            lines, rest = [*lines, rest], ""
        self._rest[node] = rest
        for line in lines:
            emit("log", node=node, line=line)


def plan_event(plan: Plan) -> None:
    """What will happen."""
    emit("plan", run=plan.run, plan=plan.model_dump(mode="json"))


def end_events(receipt: Receipt | None, report: Report) -> None:
    """How it ended: the proof of teardown and the report."""
    if receipt is not None:
        emit("receipt", receipt=receipt.model_dump(mode="json"))
    emit("report", run=report.run, state=report.state, report=report.model_dump(mode="json"))


@contextmanager
def error_event() -> Iterator[None]:
    """An error that ends the command, as the last event."""
    try:
        yield
    except SojournError as error:
        emit("error", message=error.message, hint=error.hint, exit_code=error.exit_code)
        raise
    except Exception as error:
        emit("error", message=str(error) or type(error).__name__, hint=None, exit_code=ExitCode.INFRASTRUCTURE)
        raise


def emit(event: str, **content: Any) -> None:
    """One event as one line."""
    try:
        sys.stdout.write(json.dumps({"event": event, "at": round(time.time(), 3), **content}) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        go_on_unread()
