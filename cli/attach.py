"""`sojourn attach RUN`: continue a run whose orchestrator is gone."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from cli import options

if TYPE_CHECKING:
    from collections.abc import Callable

    from sojourn.plan.planning import Plan
    from sojourn.results.report import Report
    from sojourn.run.journey import Journey, Listener
    from sojourn.store.ledger import Entry


def attach(
    run: options.Run = "last",
    take_over: Annotated[bool, typer.Option("--take-over", help="Even if its present owner seems alive.")] = False,
    start: Annotated[
        bool, typer.Option("--start", help="Also start what it runs, if it was planned on another host.")
    ] = False,
    store: options.StoreUrl = None,
    quiet: options.Quiet = False,
    as_json: options.Events = False,
) -> None:
    """Take a run over and bring it home: follow it, collect, release, confirm, publish.

    Example: sojourn attach last
    """
    from cli.interrupts import interruptible
    from cli.train import finish
    from cli.view import View
    from cli.world import named_run, stores_for
    from sojourn.errors import SpecError, UnreadableError
    from sojourn.providers.registry import open_provider
    from sojourn.results.report import Report
    from sojourn.run.journey import Journey, walk
    from sojourn.run.planned import is_ours
    from sojourn.run.runs import data_home, entries_of, plan_of, ways
    from sojourn.run.salvage import is_closed, naming_ways

    view = View(quiet, as_json)
    with view.errors():
        mailbox = named_run(run, stores_for(run, store))
        try:
            closed = mailbox.read("report", Report)
        except UnreadableError as error:
            if not is_closed(mailbox):
                raise
            raise SpecError(f"{mailbox.run} is closed already; {error.message}", hint=ways(mailbox.run)) from None
        if closed is not None:
            view.home_already(closed)
            return
        with naming_ways(mailbox.run):
            plan, home = plan_of(mailbox), data_home()
            view.follows(plan)
            tell_history(plan, entries_of(mailbox), view.listener)
            journey = Journey(plan, mailbox, open_provider(plan.launch.where, home, plan.regions), home, view.listener)
            with interruptible(journey):
                go_on = walk if is_ours(home, plan, mailbox.store) or start else _bring_home(journey)
                finish(go_on(journey, take_over=take_over), view)


def _bring_home(journey: Journey) -> Callable[..., Report]:
    """How to go on with a run that another host planned: whatever its plan says, nothing starts by it here."""
    from sojourn.errors import SpecError
    from sojourn.run.journey import bring_home

    plan = journey.plan
    if not journey.started and journey.outcome is None:
        raise SpecError(
            f"{plan.run} was planned on {plan.host} and not here, and has not started; to go on with it would run "
            f"{plan.shown_command()} on {plan.launch.nodes} × {plan.offers[0].machine}",
            hint=f"start it: sojourn attach {plan.run} --start; or end it: sojourn stop {plan.run}",
        )
    journey.listener.warn(
        f"{plan.run} was planned on {plan.host} and not here: it is followed and ended, machines that are lost are "
        f"not replaced, and its results stay in the store: sojourn pull {plan.run} --to DIR"
    )
    return bring_home


def tell_history(plan: Plan, entries: list[Entry], listener: Listener) -> None:
    """What was done before this process came, as far as the ledger tells."""
    from sojourn.shorthand import format_duration

    at = {entry.kind: entry for entry in entries}
    if "opened" in at:
        ago = format_duration(max(0.0, time.time() - plan.created_at))
        listener.note(f"{plan.run} was begun {ago} ago by {at['opened'].owner}")
    if "intent" in at and "ordered" in at:
        rented = f"{plan.launch.nodes} × {plan.offers[at['intent'].body['offer']].machine}"
        listener.finished("provision", rented, at["ordered"].at - at["intent"].at)
