"""End what outlived its run, and let Prefect know how runs ended."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cache, partial
from pathlib import Path

from prefect import get_run_logger
from prefect.client.orchestration import get_client

from sojourn.errors import SojournError
from sojourn.plan.planning import Plan
from sojourn.providers.contract import Provider
from sojourn.providers.registry import open_provider
from sojourn.run.journey import Journey
from sojourn.run.reap import Finding, forget_stores, kept_stores
from sojourn.run.reap import reap as find
from sojourn.run.runs import data_home, default_store
from sojourn.store.known_stores import each_once, known_store, remembered, unread_stores
from sojourn.store.mailbox import Mailbox
from sojourn.store.storage import Store
from tasks import artifacts, notice
from tasks.listener import PrefectListener
from tasks.mend import mend as correct
from tasks.step import step


def find_stores(providers: Sequence[Provider]) -> list[Store]:
    """This host's own store, those in which it has had runs, and those of its accounts."""
    home = data_home()
    if damaged := unread_stores(home):
        get_run_logger().warning(damaged)
    here = [known_store(home, default_store(home)), *_remembered(home)]
    return each_once([*here, *kept_stores(providers, partial(known_store, home))])


def _remembered(home: Path) -> Iterator[Store]:
    """Those in which this host has had runs; an address that is none any more is told and costs no other."""
    for url in remembered(home):
        try:
            yield known_store(home, url)
        except SojournError as error:
            get_run_logger().warning(f"{error.message}; if it is of no use: sojourn runs --forget {shlex.quote(url)}")


@step("sweep")
def sweep(stores: list[Store], providers: Sequence[Provider], dry_run: bool, project: str | None) -> list[Finding]:
    """End the machines and close the runs that nobody continues; whoever listens in Prefect hears of it."""
    home, listener = data_home(), PrefectListener(get_run_logger())

    @cache  # to log in to a cloud takes half a second
    def provider(where: str, regions: tuple[str, ...] | None) -> Provider:
        return open_provider(where, home, regions)

    def journey_of(plan: Plan, mailbox: Mailbox) -> Journey:
        return Journey(plan, mailbox, provider(plan.launch.where, plan.regions), home, listener)

    known = partial(known_store, home)
    found = _told(list(find(stores, providers, journey_of, dry_run=dry_run, project=project, open_store=known)))
    forget_stores(home, found)
    notice.tell(found)
    return found


@step("mend")
def mend(stores: list[Store], dry_run: bool, found: list[Finding]) -> list[Finding]:
    """Put flow runs right whose run has ended otherwise than Prefect believes."""
    mended: list[Finding] = []
    with get_client(sync_client=True) as client:
        for store in stores:
            with suppress(SojournError):  # the sweep has told of a store that does not answer
                mended += correct(client, store, now=time.time(), dry_run=dry_run, found=found)
    return _told(mended)


def _told(findings: list[Finding]) -> list[Finding]:
    for finding in findings:
        get_run_logger().info("%s %s: %s", finding.action, finding.name, finding.reason)
    if findings:
        artifacts.show_findings(findings)
    return findings
