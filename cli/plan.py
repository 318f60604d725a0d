"""`sojourn plan`: what a run would do, before anything exists."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli import options

Full = Annotated[bool, typer.Option("--full", help="Show every line of it.")]


@options.asking
def plan(
    asked: options.Asked,
    from_run: options.From = None,
    project: options.Directory = Path("."),
    store: options.StoreUrl = None,
    yes_upload: options.YesUpload = False,
    full: Full = False,
    as_json: options.AsJson = False,
) -> None:
    """Show what `sojourn train` would do. Creates nothing.

    Example: sojourn plan -- python train.py --epochs 3
    """
    from cli.console import out, show_plan
    from cli.world import prepare_plan

    made = prepare_plan(project, asked, store, yes_upload, from_run)
    if as_json:
        typer.echo(made.model_dump_json(indent=2))
        return
    show_plan(made, full)
    more = "" if full else " More: --full"
    out.print(f"Nothing was created. Run it: sojourn train, the same words.{more}")
