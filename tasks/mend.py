"""Puts right what Prefect believes of runs that are over.

A stopped worker leaves its flow runs Running for ever, and one that ends while the server is
away is recorded as Failed or Crashed although it succeeded
(https://github.com/PrefectHQ/prefect/issues/22426). The store knows how each run ended.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterStartTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.states import Cancelled, Completed, Failed

from sojourn.errors import SpecError
from sojourn.names import is_run_id, mint_run_id
from sojourn.results.report import Report
from sojourn.run.reap import Finding
from sojourn.run.runs import all_mailboxes
from sojourn.store.mailbox import Mailbox
from sojourn.store.storage import Store

FLOW = "train"
LOOK_BACK = timedelta(days=14)
SETTLING_S = 15.0  # between a run's report and the moment its own process has told the server
PAGE = 200
_PERHAPS_WRONG = [StateType.RUNNING, StateType.CANCELLING, StateType.FAILED, StateType.CRASHED]


def mend(
    client: SyncPrefectClient, store: Store, *, now: float, dry_run: bool, found: Iterable[Finding] = ()
) -> Iterator[Finding]:
    """Give every flow run whose run is closed in this store the final state that the store tells.

    A run that was closed a moment ago is left to its own process, unless `found` says that a
    sweep closed it in that process's place.
    """
    orphans = {finding.run for finding in found if finding.action == "closed"}
    mailboxes = {mailbox.run: mailbox for mailbox in all_mailboxes(store)}
    for flow_run in list(_suspects(client, now)):  # all first: a mended one leaves the pages
        mailbox = mailboxes.get(_run_of(flow_run))
        report = _report(mailbox) if mailbox else None
        if report is None or (report.run not in orphans and now < report.ended_at + SETTLING_S):
            continue
        was, state = flow_run.state, true_state(report)
        if was is None or was.type == state.type:
            continue
        if not dry_run:
            client.set_flow_run_state(flow_run.id, state, force=True)
        told = f"Prefect had it as {was.name}, and it is {state.name}"
        yield Finding(name=flow_run.name, run=report.run, action="would mend" if dry_run else "mended", reason=told)


def true_state(report: Report) -> State[None]:
    """The final state of a flow run whose run ended like this."""
    said = f"{report.message} (from the store; this flow run's process could not say so)"
    if report.state == "succeeded":
        return Completed(message=said)
    return Cancelled(message=said) if report.state == "stopped" else Failed(message=said)


def _suspects(client: SyncPrefectClient, now: float) -> Iterator[FlowRun]:
    since = datetime.fromtimestamp(now, UTC) - LOOK_BACK
    wanted = FlowRunFilter(
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=_PERHAPS_WRONG)),
        start_time=FlowRunFilterStartTime.model_validate({"after_": since}),
    )
    offset = 0
    while page := client.read_flow_runs(
        flow_filter=FlowFilter(name=FlowFilterName(any_=[FLOW])), flow_run_filter=wanted, limit=PAGE, offset=offset
    ):
        yield from page
        offset += len(page)


def _report(mailbox: Mailbox) -> Report | None:
    try:
        return mailbox.read("report", Report)
    except SpecError:  # written by another version
        return None


def _run_of(flow_run: FlowRun) -> str:
    """Its tag or its name if nobody changed it; else what its id gives."""
    tagged = [tag.removeprefix("run:") for tag in flow_run.tags if tag.startswith("run:")]
    return next((one for one in [*tagged, flow_run.name] if is_run_id(one)), mint_run_id(str(flow_run.id)))
