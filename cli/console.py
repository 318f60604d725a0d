"""What the user reads: plan, report, receipt, list of runs, errors."""

from __future__ import annotations

import os
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


def go_on_unread() -> None:
    """Whoever read our standard output has gone, as in `sojourn train | head`: the run is worth more than its echo."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _Console(Console):
    def on_broken_pipe(self) -> None:
        go_on_unread()


out = _Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


def show_plan(plan: Plan) -> None:
    """The plan, a line for each heading."""
    _lines(plan.lines())


def show_receipt(receipt: Receipt) -> None:
    """Each resource of a run: how long it stood, what ended it, and when it was last seen gone."""
    for one in receipt.resources:
        gone = f"gone {clock_time(one.gone_at)}" if one.gone_at else "[red bold]NOT CONFIRMED GONE[/]"
        who = f"  {escape(one.identity)}" if one.identity else ""
        ended = f", ended by {one.ended_by}" if one.ended_by else ""
        out.print(f"  {one.name}{who}  {one.seconds:.1f} s{ended}, {gone}, ${one.cost:.2f}")
    colour = "green" if receipt.state == "closed" else "red"
    count = f"{len(receipt.resources)} resource{'' if len(receipt.resources) == 1 else 's'}"
    out.print(f"[bold]{'receipt':<12}[/]{count}, [{colour}]{receipt.state}[/], ${receipt.cost:.2f}")


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
