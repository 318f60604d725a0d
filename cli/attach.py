"""`sojourn attach RUN`: continue a run whose orchestrator is gone."""

from __future__ import annotations

from typing import Annotated

import typer

from cli import options


def attach(
    run: options.Run = "last",
    take_over: Annotated[bool, typer.Option("--take-over", help="Even if its present owner seems alive.")] = False,
    store: options.StoreUrl = None,
) -> None:
    """Take a run over and bring it home: follow it, collect, release, confirm, publish.

    Example: sojourn attach last
    """
    from cli.console import out
    from cli.interrupts import interruptible
    from cli.progress import open_listener
    from cli.train import finish
    from cli.world import open_store
    from sojourn.journey import Journey, walk
    from sojourn.providers import open_provider
    from sojourn.report import Report
    from sojourn.runs import data_home, find_run, plan_of

    mailbox = find_run(open_store(store), run)
    closed = mailbox.read("report", Report)
    if closed is not None:
        out.print(f"{mailbox.run} is home already; see it: sojourn show {mailbox.run}")
        return
    plan, home = plan_of(mailbox), data_home()
    journey = Journey(plan, mailbox, open_provider(plan.launch.where, home), home, open_listener())
    with interruptible(journey):
        finish(walk(journey, take_over=take_over))
