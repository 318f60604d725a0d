"""A run on a terminal: ended steps and the script's lines scroll by, below them stands how it is going."""

from __future__ import annotations

import codecs
import threading
import time

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.markup import escape
from rich.spinner import Spinner
from rich.text import Text

from cli.console import out, show_step
from cli.statusline import clock, status_line
from sojourn.harmless import coloured
from sojourn.watch.follower import Status

LONGEST = 64 << 10  # of a line that has not ended yet; then it is shown in pieces


class LiveListener:
    """The bottom lines show the running steps; a bar that the script redraws with carriage returns stays there too."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # steps that run side by side tell us from threads of their own
        self._urgent = ""
        self._live = Live(_Bottom(self), console=out, transient=True, refresh_per_second=8)
        self._begun: dict[str, float] = {}
        self._told: tuple[Status, float] | None = None
        self._lines: dict[int, str] = {}
        self._decoders: dict[int, codecs.IncrementalDecoder] = {}

    def started(self, step: str, ago: float = 0.0) -> None:
        """A step runs."""
        with self._lock:
            self._begun[step] = time.monotonic() - ago
            _showing.append(self)
            self._live.start()

    def finished(self, step: str, text: str, seconds: float, good: bool = True) -> None:
        """A step is done."""
        with self._lock:
            self._begun.pop(step, None)
            if step == "train":
                self._told = None
            for node, rest in self._lines.items():
                self._print(rest)
                self._lines[node] = ""
            if not self._begun:
                self._live.stop()
                _showing.clear()
            said, self._urgent = self._urgent, ""
            if said:
                self.warn(said)
            show_step(step, text, seconds, good)

    def note(self, text: str) -> None:
        """Something the user may like to know."""
        out.print(f"  [dim]{escape(text)}[/]")

    def warn(self, text: str) -> None:
        """Something the user should know."""
        out.print(f"[yellow]![/] {escape(text)}")

    def status(self, status: Status) -> None:
        """How the run stands now."""
        self._told = (status, time.monotonic())

    def script(self, node: int, data: bytes) -> None:
        """The next bytes of a machine's log: whole lines are printed, the rest waits."""
        decoder = self._decoders.setdefault(node, codecs.getincrementaldecoder("utf-8")("replace"))
        *lines, rest = (self._lines.get(node, "") + decoder.decode(data)).split("\n")
        if len(rest) > LONGEST and "\r" not in rest:
            lines, rest = [*lines, rest], ""
        self._print(*lines)
        self._lines[node] = rest.rpartition("\r")[2] or rest

    def urgent(self, text: str) -> None:
        """Show this below all else from the next moment on; safe in a signal handler."""
        self._urgent = text

    def bottom(self, width: int) -> list[Text]:
        """The running steps with their times and the run's status, then the script's own progress bar."""
        now = time.monotonic()
        running = list(self._begun.items())
        line = Text("  ").join(Text.assemble((step, "bold"), f" {clock(now - begun)}") for step, begun in running)
        if self._told is not None:
            status, told = self._told
            line = Text.assemble(line, "  ", status_line(status, now - told, max(0, width - line.cell_len - 2)))
        line.truncate(width, overflow="ellipsis")
        bar = self._lines.get(0, "").strip("\r")
        below = [_cut(Text.from_ansi(coloured(bar)), width)] if bar.strip() else []
        return [line, *below, *([Text(self._urgent, style="yellow")] if self._urgent else [])]

    def _print(self, *lines: str) -> None:
        """All of them at once: the bottom is drawn anew each time."""
        shown = [last for line in lines if (last := line.rstrip("\r").rpartition("\r")[2])]
        if shown:
            out.print(Text.from_ansi(coloured("\n".join(shown))))


_showing: list[LiveListener] = []


def say_at_once(text: str) -> bool:
    """Say it on the terminal that a listener holds; False when none does. Safe in a signal handler."""
    for listener in _showing[-1:]:
        listener.urgent(text)
    return bool(_showing)


def _cut(text: Text, width: int) -> Text:
    text.truncate(width, overflow="ellipsis")
    return text


class _Bottom:
    """Drawn anew at each refresh."""

    def __init__(self, listener: LiveListener) -> None:
        self._listener = listener
        self._spinner = Spinner("dots", style="green")

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        first, *bars = self._listener.bottom(options.max_width - 3)
        yield Text.assemble(self._spinner.render(console.get_time()), " ", first)  # type: ignore[arg-type]
        for bar in bars:
            yield Text.assemble("  ", bar)
