"""`sojourn pull RUN`: get a run's results, here or into a directory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli import options

if TYPE_CHECKING:
    from sojourn.results.collect import Collected
    from sojourn.run.journey import Journey
    from sojourn.store.mailbox import Mailbox


def pull(
    run: options.Run = "last",
    to: Annotated[Path | None, typer.Option(metavar="DIR", help="A new directory for the results.")] = None,
    apply: Annotated[
        bool, typer.Option("--apply", help="Into the project's tree and dvc.lock, if what ran stands there.")
    ] = False,
    store: options.StoreUrl = None,
) -> None:
    """Fetch a run's outputs from the store, verified, without overwriting anything.

    Example: sojourn pull last --to results
    """
    from cli.console import out, show_warning
    from cli.world import named_run, open_stores
    from sojourn.errors import SojournError, SpecError
    from sojourn.omissions import printable
    from sojourn.results.publish import to_directory
    from sojourn.results.remainder import refused
    from sojourn.run.runs import plan_of
    from sojourn.shorthand import counted

    if apply and to is not None:
        raise SpecError("--apply and --to exclude each other", hint="give one of them")
    mailbox = named_run(run, open_stores(store))
    if apply:
        placed = _journey(mailbox).apply()
    else:
        found, over = _results(mailbox, anyhow=to is not None)
        for warning in refused(found):
            show_warning(warning)
        if not found.files and not found.kept:
            yet = "" if over else " yet"
            out.print(
                f"{mailbox.run} has left no file{yet}, so nothing was fetched; its log: sojourn logs {mailbox.run}"
            )
            return
        placed = to_directory(found, mailbox, to or _journey(mailbox).aside())
    for path in (*placed.placed, *placed.links, *placed.beside):
        out.print(f"  {printable(path)}", markup=False)
    for warning in placed.warnings:
        show_warning(warning)
    out.print(
        placed.note or f"{counted(len(placed.placed), 'file')} in {placed.directory or plan_of(mailbox).directory}",
        markup=False,
    )
    if placed.warnings and not apply:
        raise SojournError(f"{mailbox.run}: not all of its files could be brought", hint="the reasons stand above")


def _journey(mailbox: Mailbox) -> Journey:
    from cli.progress import open_listener
    from sojourn.providers.registry import open_provider
    from sojourn.run.journey import Journey
    from sojourn.run.runs import data_home, plan_of
    from sojourn.run.salvage import naming_ways

    with naming_ways(mailbox.run):
        plan, home = plan_of(mailbox), data_home()
        journey = Journey(plan, mailbox, open_provider(plan.launch.where, home, plan.regions), home, open_listener())
        assert journey.orchestrator.state  # which is in the ledger
    return journey


def _results(mailbox: Mailbox, anyhow: bool) -> tuple[Collected, bool]:
    """What it has committed, and whether it is over; `anyhow` also where its plan or ledger cannot be read."""
    from cli.console import show_warning
    from sojourn.errors import UnreadableError
    from sojourn.run import salvage

    try:
        journey = _journey(mailbox)
        return journey.results(), journey.outcome is not None
    except UnreadableError as error:
        if not anyhow:
            raise
        show_warning(error.message)
        return salvage.results(mailbox), salvage.state_of(mailbox).outcome is not None
