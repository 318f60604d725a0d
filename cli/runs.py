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
    forget: Annotated[
        str | None, typer.Option(metavar="URL", help="Look no more into this store; what it keeps stays there.")
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """List runs, newest first; above them those whose machines may stand with nobody to give them back.

    Example: sojourn runs --limit 5
    """
    from cli.console import err, out, show_runs
    from cli.world import open_stores
    from sojourn.errors import SojournError, SpecError
    from sojourn.run.runs import data_home, in_order, list_runs, shut_projects
    from sojourn.store import known_stores

    if limit < 1:
        raise SpecError(f"--limit: {limit} shows no run", hint="a number from 1 on: sojourn runs --limit 5")
    if forget is not None:
        known_stores.forget(data_home(), forget)
        out.print(f"Forgotten: {forget}. What it keeps stays there; look again: sojourn runs --store {forget}")
        return
    stores, silent = open_stores(store), list[tuple[str, SojournError]]()
    lines = []
    for one in stores:
        try:
            found = list_runs([one])
            lines += found
            others = [f"the runs of {name} are another user's, who lets nobody look" for name in shut_projects(one)]
            if found and one.now() is None:
                others.append("it does not tell what time it is, so nobody there is called late")
            for words in others:
                err.print(f"! {one.url}: {words}", markup=False, soft_wrap=True)
        except SojournError as error:  # a store that was used once must not hide the others
            silent.append((one.url, error))
    if len(silent) == len(stores):
        raise silent[0][1]
    for url, why in silent:
        err.print(f"! {why.message}; forget it: sojourn runs --forget {url}", markup=False, soft_wrap=True)
    orphans = sum(line.orphan is not None for line in lines)
    lines = in_order(lines)[: max(limit, orphans)]
    if as_json:
        typer.echo(json.dumps([line.model_dump(mode="json") for line in lines], indent=2))
    elif not lines:
        out.print("No runs yet. Start one: sojourn train -- python train.py")
    else:
        show_runs(lines, time.time())
