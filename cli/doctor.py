"""`sojourn doctor`: what is missing here, with the command that mends it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from cli import options

if TYPE_CHECKING:
    from sojourn.doctor import Check

MARKS = {"good": "[green]✓[/]", "weak": "[yellow]![/]", "missing": "[red]✗[/]"}


def doctor(
    project: options.Directory = Path("."), store: options.StoreUrl = None, as_json: options.AsJson = False
) -> None:
    """Look at this host and project, and say what is missing and how to mend it.

    Example: sojourn doctor
    """
    from sojourn.errors import SpecError

    checks: list[Check] = []
    for check in _checks(project, store):
        checks.append(check)
        if not as_json:
            _show(check)
    if as_json:
        typer.echo(json.dumps([check.model_dump() for check in checks], indent=2))
    missing = [check.what for check in checks if check.state == "missing"]
    if missing:
        raise SpecError(f"missing: {', '.join(missing)}", hint="mend these, then: sojourn doctor")


def _checks(project: Path, store: str | None) -> Iterator[Check]:
    from cli.server import describe_server
    from cli.world import prepare_plan, store_url
    from sojourn.doctor import Check, examine_host, examine_project
    from sojourn.providers import open_provider
    from sojourn.runs import data_home

    home = data_home()
    yield from examine_host(home, store_url(store, project), open_provider("local", home))
    yield from examine_project(project, lambda: prepare_plan(project, {}, store, accept_size=False))
    healthy, found = describe_server()
    yield Check(what="prefect", state="good" if healthy else "weak", found=found, mend="sojourn ui")


def _show(check: Check) -> None:
    from rich.markup import escape

    from cli.console import out

    mend = f"\n{'':<13}mend it: [bold]{escape(check.mend)}[/]" if check.mend and check.state != "good" else ""
    out.print(f"{MARKS[check.state]} {check.what:<11}{escape(check.found)}{mend}")
