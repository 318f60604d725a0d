"""`sojourn doctor`: what is missing here, with the command that mends it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli import completion, options
from sojourn.clouds.registry import CLOUDS, open_account

if TYPE_CHECKING:
    from sojourn.clouds.account import Check

MARKS = {"good": "[green]✓[/]", "weak": "[yellow]![/]", "missing": "[red]✗[/]"}


Where = Annotated[
    str | None,
    typer.Option(help=f"Look at this cloud account too: {', '.join(CLOUDS)}.", autocompletion=completion.providers),
]
Region = Annotated[str | None, typer.Option(help="With a cloud: the region to look at. Yours if absent.")]


def doctor(
    project: options.Directory = Path("."),
    where: Where = None,
    region: Region = None,
    store: options.StoreUrl = None,
    as_json: options.AsJson = False,
) -> None:
    """Look at this host, project and cloud account, and say what is missing and how to mend it.

    Example: sojourn doctor
    """
    from sojourn.errors import SpecError

    checks: list[Check] = []
    for check in _checks(project, where, region, store):
        checks.append(check)
        if not as_json:
            _show(check)
    if as_json:
        typer.echo(json.dumps([check.model_dump() for check in checks], indent=2))
    missing = [check.what for check in checks if check.state == "missing"]
    if missing:
        again = " ".join(["sojourn doctor", *(["--where", where] if where else [])])
        raise SpecError(f"missing: {', '.join(missing)}", hint=f"mend these, then: {again}")


def _checks(project: Path, where: str | None, region: str | None, store: str | None) -> Iterator[Check]:
    from cli.server import describe_server
    from cli.world import prepare_plan, store_url
    from sojourn.clouds.account import Check
    from sojourn.providers.registry import open_provider
    from sojourn.run.doctor import examine_host, examine_project
    from sojourn.run.runs import data_home

    home = data_home()
    yield from examine_host(home, store_url(store, project), open_provider("local", home))
    if (cloud := where or _asked(project)) in CLOUDS:
        yield from _account(str(cloud), project, region)
    yield from examine_project(project, lambda: prepare_plan(project, {}, store, accept_size=False))
    state, found, mend = describe_server()
    yield Check(what="prefect", state=state, found=found, mend=mend)


def _asked(project: Path) -> object:
    """Where the project's params.yaml rents; a file that cannot be read is told of later."""
    from sojourn.errors import SpecError
    from sojourn.spec.params import read_section

    try:
        return read_section(project).get("where")
    except SpecError:
        return None


def _account(cloud: str, project: Path, region: str | None) -> Iterator[Check]:
    from cli.world import name_of
    from sojourn.errors import SojournError
    from sojourn.names import project_name
    from sojourn.project.project import Project
    from sojourn.run.doctor import probe
    from sojourn.store.storage import Store

    try:
        name = name_of(Project.at(project))
    except SojournError:  # what is wrong with the project is told after the account
        name = project_name(project.resolve().name)
    yield from open_account(cloud, region).examine(name, lambda url: probe(Store(url)))


def _show(check: Check) -> None:
    from rich.markup import escape

    from cli.console import out

    mend = f"\n{'':<13}mend it: [bold]{escape(check.mend)}[/]" if check.mend and check.state != "good" else ""
    out.print(f"{MARKS[check.state]} {check.what:<11}{escape(check.found)}{mend}")
