"""`sojourn setup`: what must stand in a cloud account, made once and shown first."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from cli import options
from sojourn.clouds.registry import CLOUDS, Cloud, open_account

if TYPE_CHECKING:
    from sojourn.clouds.account import Account, Asked, Change, Removal, Rents

app = typer.Typer(no_args_is_help=True)

Regions = Annotated[
    list[str] | None,
    typer.Option("--region", help="Where runs are kept and machines rented; further ones only rent. Yours if absent."),
]
Yes = Annotated[bool, typer.Option("--yes", help="Make it without asking.")]
Print = Annotated[bool, typer.Option("--print", help="Make nothing, print names and policies for an administrator.")]
Number = Annotated[str | None, typer.Option(help="With --print: the account's number, so that nobody is asked.")]
Reaper = Annotated[
    bool, typer.Option("--reaper", help="Also a function in the account that ends what outlived its deadline.")
]
Store = Annotated[
    str | None, typer.Option("--store", metavar="URL", help="A bucket of your own that machines may use too.")
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


def _command(name: str, cloud: Cloud) -> Callable[..., None]:
    def set_up(
        running: typer.Context,
        project: options.Directory = Path("."),
        region: Regions = None,
        keep_days: Days = None,
        reaper: Reaper = False,
        store: Store = None,
        yes: Yes = False,
        print_: Print = False,
        account: Number = None,
        remove: Remove = False,
        delete_results: Results = False,
    ) -> None:
        from cli.world import name_of, store_url
        from sojourn.clouds.account import Asked
        from sojourn.errors import SpecError
        from sojourn.project.dvc.repo import remotes_on
        from sojourn.project.project import Project

        if delete_results and not remove:
            hint = f"sojourn setup {name} --remove --delete-results"
            raise SpecError("--delete-results goes with --remove alone", hint=hint)
        here, regions = Project.at(project), region or []
        asked = Asked(
            name_of(here),
            tuple(regions[1:]),
            tuple(remotes_on(cloud.scheme, here.dvc)),
            keep_days,
            reaper,
            store_url(store, here.directory),
            account,
        )
        opened = open_account(name, regions[0] if regions else None)
        if print_:
            typer.echo(json.dumps(opened.policies(asked), indent=2))
        else:
            _set_up(running, name, opened, asked, remove, delete_results, yes)

    does = f"Show what this project needs in your {cloud.title} account, ask, and make it."
    set_up.__doc__ = f"""{does} A second time changes nothing.

    Example: sojourn setup {name} {cloud.example}
    """
    return set_up


for _name, _cloud in CLOUDS.items():
    app.command(_name)(_command(_name, _cloud))


def _set_up(
    running: typer.Context, name: str, account: Account, asked: Asked, remove: bool, results: bool, yes: bool
) -> None:
    from cli.console import out
    from sojourn.clouds.account import differences
    from sojourn.providers.registry import open_in

    out.print(f"{account.describe()}, project {asked.project}", markup=False)
    if remove:
        rents = cast("Rents", open_in(account, name))
        _remove(running, account.removal(asked, rents, results), yes)
        return
    needed = account.pieces(asked)
    _make(running, list(differences(needed)), len(needed), account.costs(asked), yes)


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
