"""What the user sees while a run is on its way: live on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from rich.markup import escape

from cli.console import go_on_unread, out, show_step, show_warning
from cli.statusline import clock, status_parts
from sojourn.harmless import Coloured
from sojourn.watch.follower import Status

if TYPE_CHECKING:
    from sojourn.run.journey import Listener

STATUS_EVERY_S = 60.0


class SilentListener:
    """Says nothing; for work on a run that is not the user's present concern."""

    def started(self, step: str, ago: float = 0.0) -> None:
        """Nothing."""

    def finished(self, step: str, text: str, seconds: float, good: bool = True) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""

    def warn(self, text: str) -> None:
        """Nothing."""

    def status(self, status: Status) -> None:
        """Nothing."""

    def script(self, node: int, data: bytes) -> None:
        """Nothing."""


class QuietListener(SilentListener):
    """Says what goes wrong, on standard error."""

    def warn(self, text: str) -> None:
        """Something the user should know."""
        show_warning(text)


class PlainListener:
    """A line for each step as it ends, and the script's output as it comes; for pipes and logs."""

    def __init__(self) -> None:
        self._at_line_start = True
        self._told_at = float("-inf")
        self._logs: dict[int, Coloured] = {}

    def started(self, step: str, ago: float = 0.0) -> None:
        """Nothing: the line comes when the step has ended."""

    def finished(self, step: str, text: str, seconds: float, good: bool = True) -> None:
        """A step is done."""
        self._end_line()
        show_step(step, text, seconds, good)

    def note(self, text: str) -> None:
        """Something the user may like to know."""
        self._end_line()
        out.print(f"  [dim]{escape(text)}[/]")

    def warn(self, text: str) -> None:
        """Something the user should know."""
        self._end_line()
        out.print(f"[yellow]![/] {escape(text)}")

    def status(self, status: Status) -> None:
        """How the run stands now: a line a minute, so that a log shows that it is alive."""
        now = time.monotonic()
        if self._told_at == float("-inf"):
            self._told_at = now
        if now - self._told_at >= STATUS_EVERY_S:
            self._told_at = now
            self._end_line()
            said = "  ".join(part.text for part in status_parts(status))
            out.print(f"  [dim]train {clock(status.elapsed_s)}  {escape(said)}[/]")

    def script(self, node: int, data: bytes) -> None:
        """The next bytes of a machine's log, as they are but for what is not UTF-8, or what a terminal would obey."""
        self._at_line_start = data.endswith(b"\n")
        if sys.stdout.isatty():
            self._write(self._logs.setdefault(node, Coloured()).feed(data))
        else:
            self._write(data.decode("utf-8", errors="replace"))

    def _end_line(self) -> None:
        if not self._at_line_start:
            self._write("\n")
            self._at_line_start = True

    @staticmethod
    def _write(text: str) -> None:
        try:
            sys.stdout.write(text)
            sys.stdout.flush()
        except BrokenPipeError:
            go_on_unread()


def open_listener(quiet: bool = False) -> Listener:
    """The listener that fits where people read."""
    if quiet:
        return QuietListener()
    if not out.is_terminal or out.is_dumb_terminal:
        return PlainListener()
    from cli.live import LiveListener

    return LiveListener()
