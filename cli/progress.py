"""What the user sees while a run is on its way: live on a terminal, plain lines elsewhere."""

from __future__ import annotations

import codecs
import sys
import time

from rich.console import RenderableType
from rich.markup import escape
from rich.text import Text

from cli.console import go_on_unread, out


class SilentListener:
    """Says nothing; for work on a run that is not the user's present concern."""

    def started(self, step: str) -> None:
        """Nothing."""

    def finished(self, step: str, text: str, seconds: float, good: bool = True) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""

    def script(self, node: int, data: bytes) -> None:
        """Nothing."""


class PlainListener:
    """A line for each step as it ends, and the script's output as it comes; for pipes and logs."""

    def __init__(self) -> None:
        self._at_line_start = True

    def started(self, step: str) -> None:
        """Nothing: the line comes when the step has ended."""

    def finished(self, step: str, text: str, seconds: float, good: bool = True) -> None:
        """A step is done."""
        self._end_line()
        out.print(_ended(step, text, seconds, good))

    def note(self, text: str) -> None:
        """Something the user should know."""
        self._end_line()
        out.print(f"  [dim]{escape(text)}[/]")

    def script(self, node: int, data: bytes) -> None:
        """The next bytes of a machine's log, as they are but for what is not UTF-8."""
        self._at_line_start = data.endswith(b"\n")
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


class LiveListener:
    """A terminal's bottom line shows the running step; the script's lines scroll above it.

    A progress bar that the script redraws with carriage returns stays in that bottom line.
    """

    def __init__(self) -> None:
        self._status = out.status("", spinner="dots")
        self._begun: dict[str, float] = {}
        self._bar = ""
        self._lines: dict[int, str] = {}
        self._decoders: dict[int, codecs.IncrementalDecoder] = {}

    def started(self, step: str) -> None:
        """A step begins."""
        self._begun[step] = time.monotonic()
        self._status.update(_Bottom(self))
        self._status.start()

    def finished(self, step: str, text: str, seconds: float, good: bool = True) -> None:
        """A step is done."""
        self._begun.pop(step, None)
        self._bar = ""
        for node, rest in self._lines.items():
            self._print(rest)
            self._lines[node] = ""
        if not self._begun:
            self._status.stop()
        out.print(_ended(step, text, seconds, good))

    def note(self, text: str) -> None:
        """Something the user should know."""
        out.print(f"  [dim]{escape(text)}[/]")

    def script(self, node: int, data: bytes) -> None:
        """The next bytes of a machine's log: whole lines are printed, the rest waits."""
        decoder = self._decoders.setdefault(node, codecs.getincrementaldecoder("utf-8")("replace"))
        *lines, rest = (self._lines.get(node, "") + decoder.decode(data)).split("\n")
        for line in lines:
            self._print(line)
        self._lines[node] = rest.rpartition("\r")[2] or rest
        self._bar = self._lines[node].strip("\r")

    def bottom(self) -> str:
        """The running steps with their seconds, and the script's own progress bar."""
        now = time.monotonic()
        steps = "  ".join(f"{step} {now - begun:.0f} s" for step, begun in list(self._begun.items()))
        return f"{steps}  {self._bar}"

    def _print(self, line: str) -> None:
        shown = line.rstrip("\r").rpartition("\r")[2]
        if shown:
            out.print(Text.from_ansi(shown))


def _ended(step: str, text: str, seconds: float, good: bool) -> str:
    mark = "[green]✓[/]" if good else "[red]✗[/]"
    return f"{mark} {step:<12}{escape(text)}  [dim]{seconds:.1f} s[/]"


class _Bottom:
    """Asked anew by Rich at each refresh."""

    def __init__(self, listener: LiveListener) -> None:
        self._listener = listener

    def __rich__(self) -> RenderableType:
        return Text(self._listener.bottom(), overflow="ellipsis", no_wrap=True)


def open_listener() -> LiveListener | PlainListener:
    """The listener that fits where standard output goes."""
    return LiveListener() if out.is_terminal else PlainListener()
