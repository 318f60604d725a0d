"""`sojourn show RUN`: everything that is known of one run."""

from __future__ import annotations

import json
import time
from typing import Any

import typer

from cli import options


def show(run: options.Run = "last", store: options.StoreUrl = None, as_json: options.AsJson = False) -> None:
    """Show one run: plan, outcome, metrics, receipt and report.

    Example: sojourn show last --json
    """
    from cli.console import out, show_ledger, show_plan, show_receipt, show_report, show_series, show_warning
    from cli.world import named_run, open_stores
    from sojourn import harmless
    from sojourn.run.runs import AWAY, entries_of, not_home, records_of, where_it_stands

    mailbox = named_run(run, open_stores(store))
    records = records_of(mailbox)
    if as_json:
        typer.echo(json.dumps(_plain(records), indent=2))
        return
    if records.plan is not None:
        show_plan(records.plan, full=True)
    entries, now = entries_of(mailbox), mailbox.store.now()
    away = not_home(mailbox, entries, now)
    state = where_it_stands(entries, now or time.time()) + (f", {away}" if away else "")
    state += f": sojourn attach {mailbox.run}" if away == AWAY else ""
    out.print(f"[bold]{'state':<12}[/]{state}")
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


def _plain(records: Any) -> dict[str, Any]:
    content: dict[str, Any] = records.model_dump(mode="json")
    plan, report = content["plan"] or {}, content["report"] or {}
    return {"spec": plan.get("launch"), **content, "metrics": report.get("metrics")}
