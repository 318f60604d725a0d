"""Plan, progress, report and receipt as Prefect artifacts. A server that is away costs a line in the log, no more."""

from __future__ import annotations

import base64
import logging
import time
from collections.abc import Callable, Mapping
from contextvars import copy_context
from functools import partial
from threading import Thread
from uuid import UUID

from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)

from sojourn import plan_text
from sojourn.drawing import chart, format_number
from sojourn.following import Status
from sojourn.planning import Plan, format_bytes
from sojourn.reap import Finding
from sojourn.records import Receipt
from sojourn.report import Report
from sojourn.shorthand import format_duration

CHARTS = 4
PROGRESS_AFTER_S = 5.0  # a script that is over by then needs none
PROGRESS_EVERY_S = 10.0
AWAY_S = 60.0  # a server that did not answer may cost the run a minute; the artifacts after that are left out

_away_until = 0.0

logger = logging.getLogger(__name__)


def show_plan(plan: Plan) -> None:
    """A table, a row for each heading of the plan."""
    rows = [{"what": heading, "plan": text} for heading, text in plan_text.lines(plan)]
    _try(lambda: create_table_artifact(rows, key=f"{plan.project}-plan", description=f"Plan of {plan.run}"))


def show_receipt(plan: Plan, receipt: Receipt) -> None:
    """A table, a row for each resource."""
    rows = [one.model_dump(mode="json") for one in receipt.resources]
    said = f"Receipt of {plan.run}: {receipt.state}, ${receipt.cost:.2f}; leaves {plan_text.leaves(receipt.leaves)}"
    _try(lambda: create_table_artifact(rows, key=f"{plan.project}-receipt", description=said))


def show_findings(findings: list[Finding]) -> None:
    """What a sweep found, a row for each machine or run."""
    rows = [finding.model_dump(mode="json") for finding in findings]
    _try(lambda: create_table_artifact(rows, key="reap", description=f"{len(rows)} machines and runs looked at"))


def show_report(report: Report) -> None:
    """Markdown: how it ended, its curves and numbers, where its results are."""
    said = f"Report of {report.run}: {report.state}"
    _try(lambda: create_markdown_artifact(report_page(report), key=f"{report.project}-report", description=said))


def report_page(report: Report) -> str:
    """The report as markdown that needs nothing but itself: the curves are SVG images inside it."""
    facts = {
        "command": f"`{report.command}`",
        "machine": f"{report.nodes} × {report.machine}",
        "time": f"{report.seconds:.1f} s",
        "cost": f"${report.cost:.2f}",
        "results": f"{report.files} files, {format_bytes(report.bytes)}",
        "commit": f"{report.commit} (+{report.changed} changed files)" if report.commit else "not in git",
    }
    if report.held_s:
        facts["held"] = f"{format_duration(report.held_s)} after it had failed, ${report.held_cost:.2f} of the cost"
    drawn = [name for name, series in report.series.items() if len(series.values()) > 1][:CHARTS]
    curves = [_image(name, chart(name, report.series[name])) for name in drawn]
    parts = [f"# {report.run}: {report.state}", *curves, _table("ended", report.message, facts)]
    if report.metrics:
        parts.append("## Metrics\n\n" + _metrics(report))
    if report.parameters:
        parts.append("## Parameters\n\n" + _table("parameter", "value", report.parameters))
    return "\n\n".join(parts) + "\n"


class Progress:
    """One progress artifact of a run, brought up to date now and then by a thread that nobody waits for."""

    def __init__(self) -> None:
        self._artifact: UUID | None = None
        self._thread: Thread | None = None
        self._sent_at = float("-inf")
        self._share = 0.0

    def show(self, status: Status) -> None:
        """Send this status, unless the last one was sent a moment ago or is still on its way."""
        now = time.monotonic()
        underway = self._thread is not None and self._thread.is_alive()
        if status.elapsed_s < PROGRESS_AFTER_S or now - self._sent_at < PROGRESS_EVERY_S or underway:
            return
        self._sent_at = now
        self._share, of = how_far(status)
        self._send(f"{status.project}-progress", f"{of} · {_in_words(status)}")

    def ended(self, text: str, good: bool) -> None:
        """The script is over: what came of it stands where its progress stood."""
        if self._thread is not None:
            self._share = 1.0 if good else self._share
            self._send(None, text)

    def _send(self, key: str | None, said: str) -> None:
        # The task run that the artifact belongs to is known by context.
        call = partial(self._call, self._thread, key, self._share * 100, said)
        self._thread = Thread(target=copy_context().run, args=(_try, call), daemon=True)
        self._thread.start()

    def _call(self, before: Thread | None, key: str | None, percent: float, said: str) -> None:
        if before is not None:
            before.join(PROGRESS_EVERY_S)  # or an older status may come last
        if self._artifact is None and key is not None:
            self._artifact = create_progress_artifact(percent, key, said)  # type: ignore[assignment]
        elif self._artifact is not None:
            update_progress_artifact(self._artifact, percent, said)


def how_far(status: Status) -> tuple[float, str]:
    """From 0 to 1, and of what: of the steps where the script tells them, else of time."""
    if status.step is not None and status.steps:
        return min(1.0, status.step / status.steps), "steps done"
    if status.expected_s:
        return min(1.0, status.elapsed_s / status.expected_s), "of the time that its last runs took"
    return min(1.0, status.elapsed_s / (status.elapsed_s + max(0.0, status.left_s))), "of the time to its deadline"


def _in_words(status: Status) -> str:
    parts = [f"step {format_number(status.step)}"] if status.step is not None else [status.phase]
    parts += [f"{name} {format_number(value)}" for name, value in status.values.items() if value is not None][:3]
    parts += [f"{status.rate:.3g} steps/s"] if status.rate is not None else []
    return " · ".join([*parts, f"{format_duration(status.elapsed_s)} so far"])


def _metrics(report: Report) -> str:
    if report.compared is None:
        return _table("metric", "value", report.metrics)
    changes = {name: f"{change:+.3g}" for name, change in report.compared.changes.items()}
    rows = [[name, value, changes.get(name, "")] for name, value in report.metrics.items()]
    return _rows(["metric", "value", f"change on {report.compared.run}"], rows)


def _image(name: str, svg: str) -> str:
    # Both of Prefect's pages drop <svg> elements and show images of this kind (seen with 3.8.8).
    return f"![{_cell(name)}](data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()})"


def _table(left: str, right: str, rows: Mapping[str, object]) -> str:
    return _rows([left, right], [[name, value] for name, value in rows.items()])


def _rows(heading: list[str], rows: list[list[object]]) -> str:
    lines = [heading, ["---"] * len(heading), *([_cell(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: object) -> str:
    shown = f"{value:.6g}" if isinstance(value, float) else str(value)
    return shown.replace("\n", " ").replace("|", "\\|")


def _try(create: Callable[[], object]) -> None:
    global _away_until
    if time.monotonic() < _away_until:
        return
    try:
        create()
    except Exception as error:  # whatever Prefect's client raises, the run must not end because of it
        logger.warning("no artifact: %s", error)
        _away_until = time.monotonic() + AWAY_S
