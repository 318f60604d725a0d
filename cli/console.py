"""What the user sees: phases and script output, live on a terminal and as plain lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sojourn.errors import SojournError
from sojourn.ledger import Entry
from sojourn.planning import Plan, format_bytes
from sojourn.records import Receipt
from sojourn.report import Report
from sojourn.runs import RunLine
from sojourn.spec import format_duration

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


class TerminalListener:
    """Prints each step as it ends, and the script's output as it comes."""

    def __init__(self) -> None:
        self._status = out.status("", spinner="dots") if out.is_terminal else None
        self._at_line_start = True

    def started(self, step: str) -> None:
        """A step begins."""
        if self._status is not None and step != "train":
            self._status.update(f"{step} …")
            self._status.start()
        elif self._status is not None:
            self._status.stop()

    def finished(self, step: str, text: str, seconds: float) -> None:
        """A step is done."""
        if self._status is not None:
            self._status.stop()
        self._end_line()
        out.print(f"[green]✓[/] {step:<12} {escape(text)}  [dim]{seconds:.1f} s[/]")

    def note(self, text: str) -> None:
        """Something the user should know."""
        self._end_line()
        out.print(f"  [dim]{escape(text)}[/]")

    def script(self, node: int, data: bytes) -> None:
        """The next bytes of a machine's log, as they are."""
        self._at_line_start = data.endswith(b"\n")
        sys.stdout.write(data.decode("utf-8", errors="replace"))
        sys.stdout.flush()

    def _end_line(self) -> None:
        if not self._at_line_start:
            sys.stdout.write("\n")
            self._at_line_start = True


def show_plan(plan: Plan) -> None:
    """The plan, a line for each heading."""
    _lines(plan.lines())


def show_receipt(receipt: Receipt) -> None:
    """Each resource of a run and when it was last seen gone."""
    table = Table("resource", "identity", "seconds", "ended by", "gone", "cost", box=None, pad_edge=False)
    for one in receipt.resources:
        gone = clock_time(one.gone_at) if one.gone_at else "[red]NOT CONFIRMED[/]"
        table.add_row(
            one.name, one.identity or "-", f"{one.seconds:.1f}", one.ended_by or "-", gone, f"${one.cost:.2f}"
        )
    out.print(table)
    colour = "green" if receipt.state == "closed" else "red"
    out.print(f"receipt: {len(receipt.resources)} resources, [{colour}]{receipt.state}[/], ${receipt.cost:.2f}")


def show_report(report: Report) -> None:
    """A run in a few lines."""
    metrics = "  ".join(f"{name} {_number(value)}" for name, value in list(report.metrics.items())[:6])
    lines = [
        ("run", f"{report.run}    {report.state}: {report.message}"),
        ("metrics", metrics or "none reported"),
        ("results", _places(report)),
        (
            "time",
            f"{report.seconds:.1f} s in all" + (f", {report.script_s:.1f} s in the script" if report.script_s else ""),
        ),
    ]
    lines += [("same as", f"{report.same_as} had the same inputs")] if report.same_as else []
    _lines(lines)


def show_ledger(entries: Iterable[Entry]) -> None:
    """What was done, when and by whom."""
    for entry in entries:
        out.print(f"  [dim]{clock_time(entry.at)}  {entry.kind:<9} term {entry.term}  {escape(entry.owner)}[/]")


def clock_time(at: float) -> str:
    """A time of day, local."""
    import datetime

    return datetime.datetime.fromtimestamp(at).strftime("%H:%M:%S")


def _places(report: Report) -> str:
    home = report.published
    text = f"{report.files} files, {format_bytes(report.bytes)}"
    if home.placed:
        text += f"; in place: {', '.join(home.placed[:4])}{' …' if len(home.placed) > 4 else ''}"
    if home.beside:
        text += f"; {len(home.beside)} in {home.directory}"
    return f"{text}; {home.note}" if home.note else text


def _number(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _lines(lines: Iterable[tuple[str, str]]) -> None:
    for heading, text in lines:
        out.print(f"[bold]{heading:<12}[/]{escape(text)}")


def show_error(error: SojournError) -> None:
    """One sentence, and what to type next."""
    err.print(f"[red bold]error:[/] {escape(error.message)}")
    if error.hint:
        err.print(f"  {escape(error.hint)}")


def show_runs(lines: Iterable[RunLine], now: float) -> None:
    """A table of runs; those whose machines may outlive them in red."""
    table = Table("run", "state", "project", "age", "receipt", "command", box=None, pad_edge=False)
    for line in lines:
        colour = {"succeeded": "green", "training": "cyan", "failed": "red", "lost": "red"}.get(line.state, "yellow")
        late = line.receipt is None and now > line.deadline_at
        proof = "[red]none: sojourn reap[/]" if late else line.receipt or "-"
        table.add_row(
            line.run,
            f"[{colour}]{line.state}[/]",
            line.project,
            _age(now - line.created_at),
            proof,
            escape(line.command[:60]),
        )
    out.print(table)


def _age(seconds: float) -> str:
    return format_duration(seconds).split()[0]


class SilentListener:
    """Says nothing; for work on a run that is not the user's present concern."""

    def started(self, step: str) -> None:
        """Nothing."""

    def finished(self, step: str, text: str, seconds: float) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""

    def script(self, node: int, data: bytes) -> None:
        """Nothing."""
