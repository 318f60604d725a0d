"""`sojourn show RUN`: everything that is known of one run."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import typer

from cli import options

if TYPE_CHECKING:
    from sojourn.store.ledger import Entry
    from sojourn.store.mailbox import Mailbox


def show(run: options.Run = "last", store: options.StoreUrl = None, as_json: options.AsJson = False) -> None:
    """Show one run: plan, outcome, metrics, receipt and report.

    Example: sojourn show last --json
    """
    from cli.console import out, show_ledger, show_plan, show_receipt, show_report, show_series, show_warning
    from cli.world import named_run, open_stores
    from sojourn import harmless
    from sojourn.run.runs import records_of, ways
    from sojourn.run.salvage import entries_read

    mailbox = named_run(run, open_stores(store))
    records = records_of(mailbox)
    if as_json:
        typer.echo(json.dumps(_plain(records), indent=2))
        return
    if records.plan is not None:
        show_plan(records.plan, full=True)
    for words in records.unreadable:
        show_warning(words)
    if records.unreadable:
        run = mailbox.run
        show_warning(f"what works: {ways(run, shown=True)}; if it is of no use: sojourn purge {run} --yes")
    entries, now = entries_read(mailbox), mailbox.store.now()
    out.print(f"[bold]{'state':<12}[/]{_state(mailbox, entries, now)}")
    show_ledger(entries)
    if records.receipt is not None:
        show_receipt(records.receipt)
    if records.report is not None:
        show_report(records.report)
        for warning in records.report.published.warnings:
            show_warning(warning)
        show_series(records.report)
    outcome = records.outcome
    if outcome is not None and outcome.tail and (records.report is None or outcome.state != "succeeded"):
        out.print(harmless.lines(outcome.tail), markup=False)


def _state(mailbox: Mailbox, entries: list[Entry], now: float | None) -> str:
    """Where it stands, as far as its records can be read."""
    from sojourn.errors import UnreadableError
    from sojourn.run.runs import AWAY, not_home, where_it_stands

    state, away = "unreadable", None
    with suppress(UnreadableError):
        state = where_it_stands(entries, now or time.time())
        away = not_home(mailbox, entries, now)
    state += f", {away}" if away else ""
    return state + (f": sojourn attach {mailbox.run}" if away == AWAY else "")


def _plain(records: Any) -> dict[str, Any]:
    content: dict[str, Any] = records.model_dump(mode="json")
    plan, report = content["plan"] or {}, content["report"] or {}
    return {"spec": plan.get("launch"), **content, "metrics": report.get("metrics")}
