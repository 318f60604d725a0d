"""`sojourn secret`: values that a script needs and nobody else may see."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli import options
from sojourn.clouds.registry import CLOUDS

if TYPE_CHECKING:
    from sojourn.clouds.account import Secrets

CLOUD = next(iter(CLOUDS))  # the one that keeps secrets so far
app = typer.Typer(no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The environment variable that the script will see.")]
Region = Annotated[str | None, typer.Option(help="Where they are kept: the store's region. Yours if absent.")]


@app.callback()
def secret() -> None:
    """Keep values that a script needs and nobody else may see.

    Example: sojourn secret list
    """


@app.command("set")
def set_(name: Name, project: options.Directory = Path("."), region: Region = None) -> None:
    """Keep a secret in your cloud account: its value is asked for, or read from standard input.

    Example: sojourn secret set WANDB_API_KEY
    """
    from cli.console import out, show_warning
    from sojourn.agent.script.mask import is_ordinary
    from sojourn.secrets.surroundings import TOO_USUAL

    secrets, value = _secrets(project, region), _value(name)
    secrets.set(name, value)
    if is_ordinary(value):
        show_warning(f"{name} is not hidden in a run's log, as {TOO_USUAL}")
    out.print(f"Kept. A run gets it by name: sojourn train --where {CLOUD} --secret {name} …", markup=False)


@app.command("list")
def list_(project: options.Directory = Path("."), region: Region = None, as_json: options.AsJson = False) -> None:
    """Say which secrets the project has; never what they are.

    Example: sojourn secret list
    """
    import datetime

    from cli.console import out

    kept = _secrets(project, region).list()
    if as_json:
        typer.echo(json.dumps([one.model_dump() for one in kept], indent=2))
        return
    for one in kept:
        day = datetime.datetime.fromtimestamp(one.changed_at).strftime("%Y-%m-%d %H:%M")
        anew = f"   no machine may read it: an earlier version kept it; sojourn secret set {one.name}"
        out.print(f"{one.name:<32}set {day}{anew if one.earlier else ''}", markup=False)
    if not kept:
        out.print("The project has no secrets. Keep one: sojourn secret set NAME")


@app.command("remove")
def remove(name: Name, project: options.Directory = Path("."), region: Region = None) -> None:
    """Forget a secret.

    Example: sojourn secret remove WANDB_API_KEY
    """
    from cli.console import out

    _secrets(project, region).remove(name)
    out.print(f"{name} is gone.", markup=False)


def _secrets(project: Path, region: str | None) -> Secrets:
    from cli.world import name_of
    from sojourn.clouds.registry import open_account
    from sojourn.project.project import Project

    return open_account(CLOUD, region).secrets(name_of(Project.at(project)))


def _value(name: str) -> str:
    """Never from the command line: arguments stay in the shell's history and are seen by every user."""
    if sys.stdin.isatty():
        return str(typer.prompt(name, hide_input=True))
    return sys.stdin.read().removesuffix("\n")
