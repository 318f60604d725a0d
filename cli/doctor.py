"""`sojourn doctor`: what is missing here, with the command that mends it."""

from __future__ import annotations

import json
from pathlib import Path

import typer

from cli import options

MARKS = {"good": "[green]✓[/]", "weak": "[yellow]![/]", "missing": "[red]✗[/]"}


def doctor(
    project: options.Directory = Path("."), store: options.StoreUrl = None, as_json: options.AsJson = False
) -> None:
    """Look at this host and project, and say what is missing and how to mend it.

    Example: sojourn doctor
    """
    from rich.markup import escape

    from cli.console import out
    from cli.server import describe_server
    from cli.world import open_store
    from sojourn.doctor import Check, examine
    from sojourn.errors import SpecError
    from sojourn.providers import open_provider
    from sojourn.runs import data_home

    home = data_home()
    checks = [*examine(project, home, open_store(store), open_provider("local", home))]
    healthy, found = describe_server()
    checks.append(
        Check(what="prefect", state="good" if healthy else "weak", found=found, mend=None if healthy else "sojourn ui")
    )
    if as_json:
        typer.echo(json.dumps([check.model_dump() for check in checks], indent=2))
    else:
        for check in checks:
            mend = f"\n{'':<15}[bold]{escape(check.mend)}[/]" if check.mend and check.state != "good" else ""
            out.print(f"{MARKS[check.state]} {check.what:<13}{escape(check.found)}{mend}")
    missing = [check.what for check in checks if check.state == "missing"]
    if missing:
        raise SpecError(f"missing: {', '.join(missing)}", hint="mend these, then: sojourn doctor")
