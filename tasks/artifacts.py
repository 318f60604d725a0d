"""Plan, progress, report and receipt as Prefect artifacts. A server that is away costs a line in the log, no more."""

from __future__ import annotations

import base64
import logging
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import copy_context
from datetime import datetime
from functools import partial
from threading import Thread
from uuid import UUID

from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    update_progress_artifact,
)

from sojourn import harmless
from sojourn.plan import text as plan_text
from sojourn.plan.planning import Plan
from sojourn.protocol import Outcome
from sojourn.receipts import Attempt, Receipt, Resource
from sojourn.results import remainder
from sojourn.results.report import Report
from sojourn.run.reap import Finding
from sojourn.shorthand import counted, format_bytes, format_duration, format_number, format_seconds, moment
from sojourn.watch.charts import chart
from sojourn.watch.follower import Status

CHARTS = 4
TAIL = 30  # lines of a log
PATHS = 12  # of results, on the report's page
PROGRESS_AFTER_S = 5.0  # a script that is over by then needs none
PROGRESS_EVERY_S, PROGRESS_SELDOM_S = 10.0, 60.0
PROGRESS_LATE = 0.05  # of the time that a script has run for, its progress may be told so much later
SETTLE_S = 10.0  # for the pages that are on their way at the end
AWAY_S = 60.0  # a server that did not answer may cost the run a minute; the artifacts after that are left out

_away_until = 0.0
_underway: list[Thread] = []

logger = logging.getLogger(__name__)


def show_plan(plan: Plan) -> None:
    """Every line of the plan."""
    _send(plan_page(plan), f"{plan.project}-plan", f"Plan of {plan.run}")


def plan_page(plan: Plan) -> str:
    """A list as markdown: Prefect breaks no line of a table, and cuts off what does not fit on the page."""
    return _list((heading, _plain(text)) for heading, text in plan_text.lines(plan))


def show_receipt(plan: Plan, receipt: Receipt, wait: bool = False) -> None:
    """Each resource: what proves that it is gone, and what it cost."""
    said = f"Receipt of {plan.run}: {receipt.state}, ${receipt.cost:.2f}; leaves {plan_text.leaves(receipt.leaves)}"
    _send(receipt_page(receipt), f"{plan.project}-receipt", said, wait)


def receipt_page(receipt: Receipt) -> str:
    """What was rented, since when and for how long, what ended it, when it was last asked for and gone, its cost."""
    parts = [_list((one.kind, _resource(one)) for one in receipt.resources)]
    if len(receipt.attempts) > 1:
        tried = ((f"{one.number}: {one.nodes} × {one.machine}", _attempt(one)) for one in receipt.attempts)
        parts.append("## Attempts\n\n" + _list(tried))
    return "\n".join(parts)


def _resource(one: Resource) -> str:
    began = one.created_at or one.asked_at
    known = [
        _code(one.name),
        *([_plain(one.identity)] if one.identity else []),
        *([f"since {_clock(began)}"] if began else []),
        *([f"for {format_seconds(one.seconds)}"] if one.seconds else []),
        *([f"ended by {_plain(one.ended_by)}"] if one.ended_by else []),
        f"gone {_clock(one.gone_at)}" if one.gone_at else "**NOT CONFIRMED GONE**",
        f"${one.cost:.2f}",
    ]
    return ", ".join(known)


def _attempt(one: Attempt) -> str:
    ended = f"{one.state}: {_plain(one.message)}" if one.message else one.state
    return f"{_plain(one.place)}, {one.market}, {format_seconds(one.seconds)}, ${one.cost:.2f}, {ended}"


def _list(rows: Iterable[tuple[str, str]]) -> str:
    return "".join(f"- **{_plain(heading)}** {text}\n" for heading, text in rows)


def _plain(text: str) -> str:
    """The text with every sign that markdown would take for its own, in one line."""
    return harmless.markdown(text.replace("\n", " "))


def _clock(at: float) -> str:
    """`02:05:39 UTC`, or `29 Nov 02:05:39 UTC` for another day than today."""
    then = moment(at).astimezone()
    return f"{then:%H:%M:%S %Z}" if then.date() == datetime.now().date() else f"{then:%d %b %H:%M:%S %Z}"


def show_findings(findings: list[Finding]) -> None:
    """What a sweep found, a line for each machine or run."""
    _send(findings_page(findings), "reap", f"{counted(len(findings), 'finding')} of a sweep", wait=True)


def findings_page(findings: Iterable[Finding]) -> str:
    """What was done about each, and why."""
    page = _list((one.action, f"{_code(one.name)} of {_code(one.run)}: {_plain(one.reason)}") for one in findings)
    return page or "Nothing stands that should not.\n"


def show_report(report: Report, outcome: Outcome | None) -> None:
    """Markdown: how it ended, its curves and numbers, where its results are."""
    _send(report_page(report, outcome), f"{report.project}-report", f"Report of {report.run}: {report.state}")


def report_page(report: Report, outcome: Outcome | None = None) -> str:
    """The report as markdown that needs nothing but itself: the curves are SVG images inside it."""
    facts = {
        "ended": _plain(report.message),
        "command": _code(report.command),
        "machine": f"{report.nodes} × {report.machine}",
        "time": f"{format_seconds(report.seconds)}, ended {_clock(report.ended_at)}",
        "cost": f"${report.cost:.2f}",
        "results": f"{counted(report.files, 'file')}, {format_bytes(report.bytes)}",
        "commit": f"{report.commit} (+{counted(report.changed, 'changed file')})" if report.commit else "not in git",
    }
    if report.held_s:
        facts["held"] = f"{format_duration(report.held_s)} after it had failed, ${report.held_cost:.2f} of the cost"
    drawn = [name for name, series in report.series.items() if len(series.values()) > 1][:CHARTS]
    curves = [_image(name, chart(name, report.series[name])) for name in drawn]
    parts = [f"# {report.run}: {report.state}", *curves, _list(facts.items()), "## Results\n\n" + _places(report)]
    if outcome is not None and outcome.state != "succeeded" and outcome.tail:
        parts.append(f"## Last lines of its log{_whose(outcome)}\n\n" + _verbatim(outcome.tail))
    if report.metrics:
        parts.append("## Metrics\n\n" + _metrics(report))
    if report.parameters:
        parts.append("## Parameters\n\n" + _table("parameter", "value", report.parameters))
    return "\n\n".join(parts) + "\n"


def _whose(outcome: Outcome) -> str:
    if outcome.failed_rank is None:
        return ""
    return f", rank {outcome.failed_rank}" + (f" on machine {outcome.failed_node}" if outcome.failed_node else "")


def _places(report: Report) -> str:
    """Where the results are: each path for the first few, and the command that fetches them anywhere."""
    home = report.published
    lines = [f"- in place: {_paths(home.placed)}"] if home.placed else []
    lines += [f"- links: {_paths(home.links)}"] if home.links else []
    lines += [f"- as files in place of links: {_paths(home.copied)}"] if home.copied else []
    lines += [f"- in {_code(str(home.directory))}: {_paths(home.beside)}"] if home.beside else []
    lines += [f"- {_plain(home.note)}"] if home.note else []
    lines += [f"- {_plain(warning)}" for warning in home.warnings]
    lines += [f"- {heading}: {_plain(text)}" for heading, text in remainder.lines(report.kept, report.left_behind)]
    kept = f"- in the store {_code(report.store)}; fetch them: `sojourn pull {report.run} --to DIR`"
    return "\n".join([*lines, kept] if report.files else [*lines, "- no file came home"])


def _paths(paths: Sequence[str]) -> str:
    shown = ", ".join(_code(path) for path in paths[:PATHS])
    return f"{shown} and {len(paths) - PATHS:,} more" if len(paths) > PATHS else shown


def _verbatim(text: str) -> str:
    """A fenced block that no line of the text ends."""
    last = harmless.lines(text.strip(), TAIL)
    fence = _fence(last, 3)
    return f"{fence}text\n{last}\n{fence}"


def _code(text: str) -> str:
    """The text between backticks, in one line."""
    line, fence = harmless.line(" ".join(text.splitlines())), _fence(text, 1)
    return f"{fence}{line}{fence}" if fence == "`" else f"{fence} {line} {fence}"


def _fence(text: str, least: int) -> str:
    """So many backticks that none in the text ends what they begin."""
    runs = [len(run) for run in re.findall("`+", text)]
    return "`" * max(least, 1 + max(runs, default=0))


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
        every = max(PROGRESS_EVERY_S, min(PROGRESS_SELDOM_S, PROGRESS_LATE * status.elapsed_s))
        if status.elapsed_s < PROGRESS_AFTER_S or now - self._sent_at < every or underway:
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
    parts += [
        f"{harmless.markdown(name, harmless.NAME)} {format_number(value)}"
        for name, value in status.values.items()
        if value is not None
    ][:3]
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
    if isinstance(value, int) and abs(value) >= 10**12:  # of thousands of digits Python makes no text
        value = float(format_number(value))
    return harmless.cell(f"{value:.6g}" if isinstance(value, float) else str(value).replace("\n", " "))


def _send(page: str, key: str, said: str, wait: bool = False) -> None:
    """Create an artifact while the run goes on; `settle` waits for it."""
    call = partial(create_markdown_artifact, page, key=key, description=said)
    # The task run that the artifact belongs to is known by context.
    thread = Thread(target=copy_context().run, args=(_try, call), daemon=True)
    thread.start()
    _underway.append(thread)
    if wait:
        settle()


def settle(limit_s: float = SETTLE_S) -> None:
    """Wait until the pages that are on their way have arrived, or their server has shown that it does not answer."""
    until = time.monotonic() + limit_s
    while _underway:
        _underway.pop().join(max(0.0, until - time.monotonic()))


def _try(create: Callable[[], object]) -> None:
    global _away_until
    if time.monotonic() < _away_until:
        return
    try:
        create()
    except Exception as error:  # whatever Prefect's client raises, the run must not end because of it
        logger.warning("no artifact: %s", error)
        _away_until = time.monotonic() + AWAY_S
