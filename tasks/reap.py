"""End what outlived its run, and let Prefect know how runs ended."""

from __future__ import annotations

import time

from prefect import get_run_logger
from prefect.client.orchestration import get_client

from sojourn.journey import Journey
from sojourn.mailbox import Mailbox
from sojourn.planning import Plan
from sojourn.providers import configured, open_provider
from sojourn.reap import Finding
from sojourn.reap import reap as find
from sojourn.runs import data_home
from sojourn.storage import Store
from tasks import artifacts
from tasks.listener import PrefectListener
from tasks.mend import mend as correct
from tasks.step import step


@step("sweep")
def sweep(store: Store, dry_run: bool) -> list[Finding]:
    """End the machines and close the runs that nobody continues."""
    home, listener = data_home(), PrefectListener(get_run_logger())

    def journey_of(plan: Plan, mailbox: Mailbox) -> Journey:
        return Journey(plan, mailbox, open_provider(plan.launch.where, home, plan.regions), home, listener)

    return _told(list(find([store], configured(home), journey_of, now=time.time(), dry_run=dry_run)))


@step("mend")
def mend(store: Store, dry_run: bool, found: list[Finding]) -> list[Finding]:
    """Put flow runs right whose run has ended otherwise than Prefect believes."""
    with get_client(sync_client=True) as client:
        return _told(list(correct(client, store, now=time.time(), dry_run=dry_run, found=found)))


def _told(findings: list[Finding]) -> list[Finding]:
    for finding in findings:
        get_run_logger().info("%s %s: %s", finding.action, finding.name, finding.reason)
    if findings:
        artifacts.show_findings(findings)
    return findings
