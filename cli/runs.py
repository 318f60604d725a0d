"""`sojourn runs`: what is in the store, newest first."""

from __future__ import annotations

import json
import time
from typing import Annotated

import typer

from cli import options


def runs(
    store: options.StoreUrl = None,
    limit: Annotated[int, typer.Option(help="Show at most this many.")] = 20,
    as_json: options.AsJson = False,
) -> None:
    """List runs, newest first.

    Example: sojourn runs --limit 5
    """
    from cli.console import out, show_runs
    from cli.world import open_stores
    from sojourn.runs import list_runs

    lines = list_runs(open_stores(store))[:limit]
    if as_json:
        typer.echo(json.dumps([line.model_dump(mode="json") for line in lines], indent=2))
    elif not lines:
        out.print("No runs yet. Start one: sojourn train -- python train.py")
    else:
        show_runs(lines, time.time())
