"""What the user reads: plan, report, receipt, list of runs, errors."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.markup import escape
from rich.segment import Segment
from rich.table import Table

from sojourn import harmless
from sojourn.errors import SojournError
from sojourn.plan import text as plan_text
from sojourn.plan.planning import Plan
from sojourn.receipts import Receipt
from sojourn.results import remainder
from sojourn.results.report import Report
from sojourn.run.runs import RunLine
from sojourn.shorthand import counted, format_bytes, format_clock, format_duration, format_number, format_seconds
from sojourn.store.ledger import Entry
from sojourn.watch.charts import sparkline


def go_on_unread() -> None:
    """Whoever read our standard output has gone, as in `sojourn train | head`: the run is worth more than its echo."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _Console(Console):
    def on_broken_pipe(self) -> None:
        go_on_unread()

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Whatever is shown, and wherever it came from: its letters are no orders to the terminal."""
        for segment in super().render(renderable, options):
            text = segment.text if segment.control else harmless.inert(segment.text)
            yield segment if text is segment.text else segment._replace(text=text)


HINT = 60  # lines: the last ones of a log, and what to do about them
SHOWN = 6  # metrics of a run

out = _Console(highlight=False, soft_wrap=True)
err = _Console(stderr=True, highlight=False, soft_wrap=True)


def show_plan(plan: Plan, full: bool = False) -> None:
    """The plan, a line for each heading; `full` leaves out nothing."""
    _lines(plan_text.lines(plan) if full else plan_text.short(plan))


def show_receipt(receipt: Receipt) -> None:
    """Each resource of a run: how long it stood, what ended it, and when it was last seen gone."""
    for one in receipt.resources:
        gone = f"gone {format_clock(one.gone_at)}" if one.gone_at else "[red bold]NOT CONFIRMED GONE[/]"
        began = one.created_at or one.asked_at
        since = f"  {format_clock(began)}" if began else ""
        who = f"  {_line(one.identity)}" if one.identity else ""
        ended = f", ended by {_line(one.ended_by)}" if one.ended_by else ""
        time = f"  {format_seconds(one.seconds)}" if one.seconds else ""
        cost = f", ${one.cost:.2f}" if one.seconds else ""
        _row("  ", f"{_line(one.kind)}  {_line(one.name)}{who}{since}{time}{ended}, {gone}{cost}", 2)
    if len(receipt.attempts) > 1:
        for at in receipt.attempts:
            what = f"{at.nodes} × {at.machine} {at.place} {at.market}, {at.seconds:.0f} s, ${at.cost:.2f}: {at.state}"
            why = f", {at.message}" if at.message else ""
            _row("  ", f"attempt {at.number}  {_line(what + why)}", 2)
    if receipt.held_s:
        _row(
            "  ", f"held for {format_duration(receipt.held_s)} after the script had failed: ${receipt.held_cost:.2f}", 2
        )
    colour = "green" if receipt.state == "closed" else "red"
    count = counted(len(receipt.resources), "resource")
    _row(f"[bold]{'receipt':<12}[/]", f"{count}, [{colour}]{receipt.state}[/], ${receipt.cost:.2f}", 12)
    if receipt.leaves.bytes:
        _row(f"[bold]{'leaves':<12}[/]", escape(plan_text.leaves(receipt.leaves)), 12)


def show_report(report: Report) -> None:
    """A run in a few lines."""
    lines = [
        (
            "time",
            f"{format_seconds(report.seconds)} in all"
            + (f", {format_seconds(report.script_s)} in the script" if report.script_s else ""),
        ),
    ]
    if report.resumed_from:
        which = report.resumed_files or f"checkpoint {report.resumed_checkpoint}"
        lines.append(("resumed", harmless.line(f"from {which} of {report.resumed_from}")))
    lines += [("same as", f"{report.same_as} had the same inputs")] if report.same_as else []
    show_outcome(report)
    _lines(lines)


def show_outcome(report: Report) -> None:
    """How a run ended, its numbers, and where its results are."""
    _lines(
        [
            ("run", harmless.line(f"{report.run}    {report.state}: {report.message}")),
            ("metrics", _metrics(report)),
            ("results", _places(report)),
            *remainder.lines(report.kept, report.left_behind),
        ]
    )


def show_step(step: str, text: str, seconds: float, good: bool) -> None:
    """A step that is done, with its time."""
    mark = "[green]✓[/]" if good else "[red]✗[/]"
    took = format_seconds(seconds)
    _row(f"{mark} {step:<12}", f"{escape(text)}  [dim]{took}[/]" if text else f"[dim]{took}[/]", 14)


def show_ledger(entries: Iterable[Entry]) -> None:
    """What was done, when and by whom."""
    for entry in entries:
        what = f"{entry.kind:<9} term {entry.term}  {entry.owner}"
        out.print(f"  [dim]{format_clock(entry.at)}  {_line(what, harmless.VALUE)}[/]")
        if isinstance(fault := entry.body.get("fault"), str):
            out.print(f"  [red]{_line(fault)}[/]", soft_wrap=True)


def _metrics(report: Report) -> str:
    """The first few metrics, each with its change on the last run."""
    changes = report.compared.changes if report.compared else {}
    shown = "  ".join(_metric(name, value, changes.get(name)) for name, value in list(report.metrics.items())[:SHOWN])
    more = f"  … {len(report.metrics) - SHOWN} more" if len(report.metrics) > SHOWN else ""
    against = f"  against {report.compared.run}" if report.compared and any(changes.values()) else ""
    return f"{shown}{more}{against}" or "none reported"


def _metric(name: str, value: object, change: float | None) -> str:
    name = harmless.line(name, harmless.NAME)
    return f"{name} {_number(value)} ({change:+.3g})" if change else f"{name} {_number(value)}"


def show_series(report: Report) -> None:
    """A line for each of the first few series: its shape, its first and last value."""
    shown = {name: series for name, series in report.series.items() if len(series.values()) > 1}
    for name, series in list(shown.items())[:SHOWN]:
        values, width = series.values(), min(30, max(map(len, shown)))
        ends = f"{format_number(values[0])} → {format_number(values[-1])}"
        text = f"[cyan]{sparkline(values, 30)}[/]  {ends}  [dim]{counted(series.count, 'report')}[/]"
        _row(f"  {_line(name, width):<{width}}  ", text, width + 4)


def _places(report: Report) -> str:
    home = report.published
    text = f"{counted(report.files, 'file')}, {format_bytes(report.bytes)}"
    if home.placed:
        text += f"; in place: {_few(home.placed)}"
    if home.links:
        text += f"; {counted(len(home.links), 'link')}: {_few(home.links)}"
    if home.copied:
        text += f"; as files in place of links: {_few(home.copied)}"
    if home.beside:
        text += f"; {len(home.beside)} in {home.directory}"
    return harmless.line(f"{text}; {home.note}" if home.note else text)


def _few(paths: tuple[str, ...]) -> str:
    shown = ", ".join(harmless.line(path, harmless.VALUE) for path in paths[:4])
    return f"{shown}{' …' if len(paths) > 4 else ''}"


def _number(value: object) -> str:
    known = isinstance(value, float) and math.isfinite(value)
    return format_number(value) if known else harmless.line(value, harmless.VALUE)  # type: ignore[arg-type]


def _line(text: str, limit: int = harmless.LINE) -> str:
    """Text from outside, between our own words and colours."""
    return escape(harmless.line(text, limit))


def _lines(lines: Iterable[tuple[str, str]]) -> None:
    for heading, text in lines:
        _row(f"[bold]{heading:<12}[/]", escape(text), 12)


def _row(heading: str, text: str, width: int) -> None:
    """A heading and its text: on a terminal a long text goes on below itself, elsewhere it stays in one line."""
    if not out.is_terminal:
        out.print(heading + text)
        return
    table = Table.grid()
    table.add_column(width=width)
    table.add_column(overflow="fold")
    table.add_row(heading, text)
    out.print(table, soft_wrap=False)


def show_warning(text: str) -> None:
    """Something to know that is no error."""
    err.print(f"[yellow]![/] {escape(harmless.lines(text))}")


def show_error(error: SojournError) -> None:
    """One sentence, and what to type next."""
    err.print(f"[red bold]error:[/] {escape(harmless.lines(error.message))}")
    if error.hint:
        err.print(f"  {escape(harmless.lines(error.hint, HINT))}")


def show_runs(lines: Iterable[RunLine], now: float) -> None:
    """A table of runs; above it, in red, those whose machines may stand with nobody to give them back."""
    lines = list(lines)
    for line in lines:
        if line.orphan:
            out.print(f"[red bold]![/] [red]{line.run}  {_line(line.orphan)}; end them: {line.remedy}[/]")
        elif line.unreadable:
            out.print(f"[yellow]! {line.run}  {_line(line.unreadable)}[/]")
        elif line.not_home and line.remedy:
            out.print(f"[yellow]! {line.run}  its results are {line.not_home}; bring them: {line.remedy}[/]")
    table = Table("run", "state", "project", "age", "receipt", "command", box=None, pad_edge=False)
    for line in lines:
        colour = {"succeeded": "green", "training": "cyan", "failed": "red", "lost": "red"}.get(line.state, "yellow")
        proof = f"[red]{line.receipt or 'none'}: {line.remedy}[/]" if line.orphan else line.receipt or "-"
        state = f"[{colour}]{line.state}[/]" + (f", [yellow]{line.not_home}[/]" if line.not_home else "")
        table.add_row(
            f"[red]{line.run}[/]" if line.orphan else line.run,
            state,
            _line(line.project, harmless.NAME),
            _age(now - line.created_at),
            proof,
            _line(line.command[:60]),
        )
    out.print(table)


def _age(seconds: float) -> str:
    return format_duration(seconds).split()[0]
