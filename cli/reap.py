"""`sojourn reap`: end what outlived its run."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Annotated

import typer

from cli import options

if TYPE_CHECKING:
    from sojourn.journey import Journey
    from sojourn.mailbox import Mailbox
    from sojourn.planning import Plan


def reap(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be ended.")] = False,
    store: options.StoreUrl = None,
    as_json: options.AsJson = False,
) -> None:
    """End every machine that outlived its run, and say what was left and why.

    Example: sojourn reap --dry-run
    """
    from cli.console import out
    from cli.world import open_store
    from sojourn.errors import TeardownError
    from sojourn.providers import NAMES, open_provider
    from sojourn.reap import reap as find
    from sojourn.runs import data_home

    home, findings = data_home(), []
    for name in NAMES:
        for finding in find(
            open_store(store), open_provider(name, home), _journey_of, now=time.time(), dry_run=dry_run
        ):
            findings.append(finding)
            if not as_json:
                out.print(f"{finding.action:<12}{finding.name}  {finding.reason}", markup=False)
    if as_json:
        typer.echo(json.dumps([finding.model_dump(mode="json") for finding in findings], indent=2))
    elif not findings:
        out.print("Nothing stands: no machine carries our name.")
    failed = [finding.name for finding in findings if finding.action == "failed"]
    if failed:
        raise TeardownError(f"found and could not end: {', '.join(failed)}", hint="try again: sojourn reap")


def _journey_of(plan: Plan, mailbox: Mailbox) -> Journey:
    from cli.progress import SilentListener
    from sojourn.journey import Journey
    from sojourn.providers import open_provider
    from sojourn.runs import data_home

    home = data_home()
    return Journey(plan, mailbox, open_provider(plan.launch.where, home), home, SilentListener())
