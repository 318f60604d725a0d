"""`sojourn reap`: end what outlived its run, and bring home what nobody waits for."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import cache, partial
from typing import TYPE_CHECKING, Annotated

import typer

from cli import options

if TYPE_CHECKING:
    from cli.server import Address
    from sojourn.plan.planning import Plan
    from sojourn.providers.contract import Provider
    from sojourn.run.journey import Journey
    from sojourn.run.reap import Finding
    from sojourn.store.mailbox import Mailbox
    from sojourn.store.storage import Store

Project = Annotated[str | None, typer.Option(metavar="NAME", help="Only what is this project's; all if absent.")]
Regions = Annotated[
    list[str] | None, typer.Option("--region", metavar="REGION", help="Look for machines in this region alone.")
]
AllRegions = Annotated[
    bool, typer.Option("--all-regions", help="Look in every region of every account, as it does unless told otherwise.")
]


def reap(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    project: Project = None,
    region: Regions = None,
    all_regions: AllRegions = False,
    store: options.StoreUrl = None,
    as_json: options.AsJson = False,
) -> None:
    """End every machine that outlived its run, close the runs that nobody continues, and say what was left and why.

    Example: sojourn reap --dry-run
    """
    from cli.console import out
    from cli.world import trusted_stores
    from sojourn.errors import SpecError
    from sojourn.harmless import line
    from sojourn.providers.registry import configured
    from sojourn.run.reap import forget_stores, kept_stores, raise_for_failed
    from sojourn.run.runs import data_home
    from sojourn.store.known_stores import each_once, known_store

    if region and all_regions:
        raise SpecError("--region and --all-regions exclude each other", hint="sojourn reap --region us-east-1")
    providers = configured(data_home(), region)
    known = partial(known_store, data_home())
    stores = each_once([*trusted_stores(store), *([] if store else kept_stores(providers, known))])
    findings = []
    for finding in _everything(stores, providers, dry_run, project):
        findings.append(finding)
        if not as_json:
            out.print(f"{finding.action:<12}{line(finding.name)}  {line(finding.reason)}", markup=False)
    if as_json:
        typer.echo(json.dumps([finding.model_dump(mode="json") for finding in findings], indent=2))
    elif not findings:
        out.print("Nothing stands: no machine carries our name.")
    forget_stores(data_home(), findings)
    raise_for_failed(findings)


def _everything(
    stores: list[Store], providers: Sequence[Provider], dry_run: bool, project: str | None
) -> Iterator[Finding]:
    from sojourn.run.reap import reap as find
    from sojourn.run.runs import data_home
    from sojourn.store.known_stores import known_store

    found, known = [], partial(known_store, data_home())
    for finding in find(stores, providers, _journeys(), dry_run=dry_run, project=project, open_store=known):
        found.append(finding)
        yield finding
    server = _server()
    if server is not None:
        for store in stores:
            yield from _mended(store, server, dry_run, found)


def _server() -> Address | None:
    """A Prefect server that takes us; one that refuses is told of, and machines are ended without it."""
    from cli.console import show_warning
    from cli.server import running_server
    from sojourn.errors import SojournError

    try:
        return running_server()
    except SojournError as error:
        show_warning(f"Prefect's record is not looked at: {error.message}")
        return None


def _mended(store: Store, server: Address, dry_run: bool, found: list[Finding]) -> Iterator[Finding]:
    """What Prefect believes wrongly."""
    from prefect.client.orchestration import get_client

    from cli.console import show_warning
    from cli.server import connected
    from sojourn.errors import SojournError, first_line
    from sojourn.shorthand import shortened
    from tasks.mend import mend

    try:
        # The sweep has told of a store that cannot be asked.
        with suppress(SojournError), connected(server), get_client(sync_client=True) as client:
            yield from mend(client, store, now=time.time(), dry_run=dry_run, found=found)
    except Exception as error:  # what answers at an address that somebody set; machines were ended before
        show_warning(f"Prefect's record was not put right: {shortened(first_line(error), 200)}")


def _journeys() -> Callable[[Plan, Mailbox], Journey]:
    """Runs in the hands of this sweep; those that were in the same regions share a provider."""
    from cli.progress import SilentListener
    from sojourn.providers.registry import open_provider
    from sojourn.run.journey import Journey
    from sojourn.run.runs import data_home

    home = data_home()

    @cache  # to log in to a cloud takes half a second
    def provider(where: str, regions: tuple[str, ...] | None) -> Provider:
        return open_provider(where, home, regions)

    def journey_of(plan: Plan, mailbox: Mailbox) -> Journey:
        return Journey(plan, mailbox, provider(plan.launch.where, plan.regions), home, SilentListener())

    return journey_of
