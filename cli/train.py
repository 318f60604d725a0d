"""`sojourn train`: the whole round trip."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli import options

if TYPE_CHECKING:
    from cli.view import View
    from sojourn.plan.planning import Plan
    from sojourn.results.report import Report

NoPrefect = Annotated[bool, typer.Option("--no-prefect", help="Do not record the run in Prefect.")]


@options.asking
def train(
    asked: options.Asked,
    from_run: options.From = None,
    project: options.Directory = Path("."),
    store: options.StoreUrl = None,
    yes_upload: options.YesUpload = False,
    no_prefect: NoPrefect = False,
    quiet: options.Quiet = False,
    as_json: options.Events = False,
) -> None:
    """Run a script or a DVC stage on rented machines and bring its results home.

    Example: sojourn train -- python train.py --epochs 3
    """
    from cli.recorded import with_prefect
    from cli.view import View

    view = View(quiet, as_json)

    def make_plan() -> Plan:
        from cli.world import prepare_plan

        return prepare_plan(project, asked, store, yes_upload, from_run, note=True)

    with view.errors():
        finish(without_prefect(make_plan, view) if no_prefect else with_prefect(make_plan, view, _walk), view)


def without_prefect(make_plan: Callable[[], Plan], view: View) -> Report:
    """The same steps, in this process alone."""
    plan = make_plan()
    view.plan(plan)
    return _walk(plan, view)


def _walk(plan: Plan, view: View) -> Report:
    from cli.interrupts import interruptible
    from sojourn.providers.registry import open_provider
    from sojourn.run.journey import Journey, walk
    from sojourn.run.runs import data_home
    from sojourn.store.known_stores import known_store
    from sojourn.store.mailbox import Mailbox

    home = data_home()
    mailbox = Mailbox(known_store(home, plan.store), plan.project, plan.run)
    journey = Journey.begin(plan, mailbox, open_provider(plan.launch.where, home, plan.regions), home, view.listener)
    with interruptible(journey):
        return walk(journey)


def finish(report: Report, view: View) -> None:
    """The last lines: what came of it, the receipt, and the exit code that says how it ended."""
    from cli.world import open_store
    from sojourn.protocol import Outcome
    from sojourn.receipts import Receipt
    from sojourn.run.journey import raise_for
    from sojourn.store.mailbox import Mailbox

    mailbox = Mailbox(open_store(report.store), report.project, report.run)
    view.ended(mailbox.read("receipt", Receipt), report)
    raise_for(report, mailbox.read("outcome", Outcome))
