"""`sojourn setup`: what must stand in a cloud account, made once and shown first."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli import options

if TYPE_CHECKING:
    from sojourn.clouds.account import Change, Removal

app = typer.Typer(no_args_is_help=True)

Regions = Annotated[
    list[str] | None,
    typer.Option("--region", help="Where runs are kept and machines rented; further ones only rent. Yours if absent."),
]
Yes = Annotated[bool, typer.Option("--yes", help="Make it without asking.")]
Print = Annotated[bool, typer.Option("--print", help="Make nothing, print names and policies for an administrator.")]
Account = Annotated[str | None, typer.Option(help="With --print: the account's number, so that nobody is asked.")]
Reaper = Annotated[
    bool, typer.Option("--reaper", help="Also a function in the account that ends what outlived its deadline.")
]
Store = Annotated[
    str | None, typer.Option("--store", metavar="URL", help="An s3:// of your own that machines may use too.")
]
Remove = Annotated[bool, typer.Option("--remove", help="Take away what it made, while nothing of ours runs.")]
Results = Annotated[
    bool, typer.Option("--delete-results", help="With --remove: the bucket too, with every run that it keeps.")
]
Days = Annotated[int | None, typer.Option("--keep-days", min=14, help="How long the store keeps a run; at first 30.")]


@app.callback()
def setup() -> None:
    """Make what a cloud account needs, once.

    Example: sojourn setup aws --print --account 123456789012 --region us-east-1
    """


@app.command("aws")
def aws(
    running: typer.Context,
    project: options.Directory = Path("."),
    region: Regions = None,
    keep_days: Days = None,
    reaper: Reaper = False,
    store: Store = None,
    yes: Yes = False,
    print_: Print = False,
    account: Account = None,
    remove: Remove = False,
    delete_results: Results = False,
) -> None:
    """Show what this project needs in your Amazon account, ask, and make it. A second time changes nothing.

    Example: sojourn setup aws --region us-east-1
    """
    from sojourn.clouds.account import differences
    from sojourn.clouds.aws.setup.pieces import pieces

    from cli.console import out
    from cli.world import name_of, store_url
    from sojourn.clouds.aws import administrator
    from sojourn.clouds.aws.clients import Clients
    from sojourn.clouds.aws.foundation import Names
    from sojourn.clouds.aws.policies import printed
    from sojourn.clouds.aws.setup.removal import removal
    from sojourn.errors import SpecError
    from sojourn.project.dvc.repo import s3_remotes
    from sojourn.project.project import Project
    from sojourn.providers.ec2.provider import Ec2Provider

    if delete_results and not remove:
        raise SpecError("--delete-results goes with --remove alone", hint="sojourn setup aws --remove --delete-results")
    here = Project.at(project)
    name, remotes, own = name_of(here), s3_remotes(here.dvc), store_url(store, here.directory)
    regions = region or []
    clients = Clients(regions[0] if regions else None)
    if print_:
        names = Names(account or clients.account, clients.region, name, own)
        typer.echo(json.dumps({**printed(names, remotes), "who_sets_up": administrator.policy(names)}, indent=2))
        return
    out.print(f"account {clients.account}, region {clients.region}, project {name}", markup=False)
    if remove:
        _remove(running, removal(Ec2Provider(clients), name, regions[1:], delete_results), yes)
        return
    needed = pieces(clients, name, regions[1:], remotes, keep_days, reaper, own)
    cost = "The function costs about a cent a month, the rest nothing" if reaper else "None of it costs anything"
    _make(running, list(differences(needed)), len(needed), cost, yes)


def _make(running: typer.Context, changes: list[Change], needed: int, cost: str, yes: bool) -> None:
    from cli.again import again
    from cli.console import out

    for change in changes:
        _show(change)
    same = f"{needed - len(changes)} as they should be"
    if not changes:
        out.print(f"No change: {same}.")
        return
    new = sum(change.new for change in changes)
    out.print(f"{new} to make, {len(changes) - new} to change, {same}. {cost} by itself.")
    if not (yes or _accepted("Make it?")):
        out.print(f"Nothing was made. Make it: {again(running, '--yes')}", markup=False)
        return
    for change in changes:
        change.apply()
        out.print(f"[green]✓[/] {change.piece.title}")


def _remove(running: typer.Context, found: Removal, yes: bool) -> None:
    from cli.again import again
    from cli.console import out

    for piece in found.going:
        out.print(f"- {piece.title}", markup=False)
    for line in found.staying:
        out.print(f"  stays: {line}", markup=False)
    if not found.going:
        out.print("Nothing to remove.")
    try:
        if found.going and (yes or _accepted("Remove it?")):
            found.apply()
            out.print(f"[green]✓[/] {len(found.going)} removed")
        elif found.going:
            out.print(f"Nothing was removed. Do it: {again(running, '--yes')}", markup=False)
    finally:
        _forget(found)


def _forget(found: Removal) -> None:
    """Nobody looks any more for runs in a store that does not stand."""
    from sojourn.run.runs import data_home
    from sojourn.store.known_stores import forget_bucket

    for bucket in found.missing():
        forget_bucket(data_home(), bucket)


def _accepted(question: str) -> bool:
    return sys.stdin.isatty() and typer.confirm(question)


def _show(change: Change) -> None:
    from cli.console import out

    out.print(f"{'+' if change.new else '~'} {change.piece.title}", markup=False)
    for aspect, has, wanted in change.fields:
        before = f"{_text(has)} → " if has is not None else ""
        out.print(f"    {aspect:<22}{before}{_text(wanted) if wanted is not None else 'taken away'}", markup=False)


def _text(value: object) -> str:
    """A value as people read it; a statement of a policy as a sentence."""
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    if not isinstance(value, dict):
        return str(value)
    who = value.get("Principal", {}).get("Service")
    on = f" on {_text(value['Resource'])}" if "Resource" in value else ""
    tests = [
        f"{key} is {_text(wanted)}" for test in value.get("Condition", {}).values() for key, wanted in test.items()
    ]
    return (who or _text(value["Action"]) + on) + (f" when {' and '.join(tests)}" if tests else "")
