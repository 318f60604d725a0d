"""Plan, report and receipt as Prefect artifacts. A server that is away costs a line in the log, no more."""

from __future__ import annotations

import logging
from collections.abc import Callable

from prefect.artifacts import create_markdown_artifact, create_table_artifact

from sojourn.planning import Plan, format_bytes
from sojourn.reap import Finding
from sojourn.records import Receipt
from sojourn.report import Report

logger = logging.getLogger(__name__)


def show_plan(plan: Plan) -> None:
    """A table, a row for each heading of the plan."""
    rows = [{"what": heading, "plan": text} for heading, text in plan.lines()]
    _try(lambda: create_table_artifact(rows, key=f"{plan.project}-plan", description=f"Plan of {plan.run}"))


def show_receipt(plan: Plan, receipt: Receipt) -> None:
    """A table, a row for each resource."""
    rows = [one.model_dump(mode="json") for one in receipt.resources]
    said = f"Receipt of {plan.run}: {receipt.state}, ${receipt.cost:.2f}"
    _try(lambda: create_table_artifact(rows, key=f"{plan.project}-receipt", description=said))


def show_findings(findings: list[Finding]) -> None:
    """What a sweep found, a row for each machine or run."""
    rows = [finding.model_dump(mode="json") for finding in findings]
    _try(lambda: create_table_artifact(rows, key="reap", description=f"{len(rows)} machines and runs looked at"))


def show_report(report: Report) -> None:
    """Markdown: how it ended, its numbers, where its results are."""
    facts = {
        "ended": report.message,
        "command": f"`{report.command}`",
        "machine": f"{report.nodes} × {report.machine}",
        "time": f"{report.seconds:.1f} s",
        "cost": f"${report.cost:.2f}",
        "results": f"{report.files} files, {format_bytes(report.bytes)}",
        "commit": f"{report.commit} (+{report.changed} changed files)" if report.commit else "not in git",
    }
    numbers = {**report.metrics, **report.parameters}
    body = f"# {report.run}: {report.state}\n\n{_table(facts)}\n\n## Metrics and parameters\n\n{_table(numbers)}\n"
    _try(lambda: create_markdown_artifact(body, key=f"{report.project}-report", description=f"Report of {report.run}"))


def _table(rows: dict[str, object] | dict[str, str]) -> str:
    lines = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    return f"| | |\n|---|---|\n{lines}"


def _try(create: Callable[[], object]) -> None:
    try:
        create()
    except Exception as error:  # whatever Prefect's client raises, the run must not end because of it
        logger.warning("no artifact: %s", error)
