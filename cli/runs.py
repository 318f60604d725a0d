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
    """List runs, newest first; above them those whose machines may stand with nobody to give them back.

    Example: sojourn runs --limit 5
    """
    from cli.console import err, out, show_runs
    from cli.world import open_stores
    from sojourn.errors import SojournError
    from sojourn.runs import in_order, list_runs

    stores, silent = open_stores(store), []
    lines = []
    for one in stores:
        try:
            lines += list_runs([one])
        except SojournError as error:  # a store that was used once must not hide the others
            silent.append(error)
    if len(silent) == len(stores):
        raise silent[0]
    for why in silent:
        err.print(f"! {why.message}", markup=False, soft_wrap=True)
    orphans = sum(line.orphan is not None for line in lines)
    lines = in_order(lines)[: max(limit, orphans)]
    if as_json:
        typer.echo(json.dumps([line.model_dump(mode="json") for line in lines], indent=2))
    elif not lines:
        out.print("No runs yet. Start one: sojourn train -- python train.py")
    else:
        show_runs(lines, time.time())
