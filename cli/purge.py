"""`sojourn purge`: remove what old runs left."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Annotated

import typer

from cli import completion, options

if TYPE_CHECKING:
    from sojourn.run.purge import Purged


Runs = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[RUN]…", help="These runs, however young; all old ones if absent.", autocompletion=completion.runs
    ),
]


def purge(
    running: typer.Context,
    runs: Runs = None,
    older_than: Annotated[str, typer.Option(help="Runs closed longer ago than this, like 30d or 12h.")] = "30d",
    yes: Annotated[bool, typer.Option("--yes", help="Remove it; without, it is only listed.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list it, as without --yes.")] = False,
    store: options.StoreUrl = None,
    as_json: options.AsJson = False,
) -> None:
    """List what old runs left, and with --yes remove it: records, outputs, environments. Your own files stay.

    Example: sojourn purge --older-than 90d
    """
    from cli.world import open_stores, trusted_stores
    from sojourn.errors import SpecError, TransientError
    from sojourn.run.purge import purge as find
    from sojourn.run.runs import data_home, find_run
    from sojourn.shorthand import parse_duration
    from sojourn.store.mailbox import Mailbox

    try:
        age = parse_duration(older_than)
    except ValueError as error:
        raise SpecError(f"older-than: {error}", hint="sojourn purge --older-than 30d") from None
    named = [find_run(open_stores(store), run) for run in runs or ()]
    kept_in: dict[str, Mailbox] = {mailbox.store.url: mailbox for mailbox in named}
    if len(kept_in) > 1:
        raise SpecError(f"these runs are in {len(kept_in)} stores", hint="purge those of each store by themselves")
    where = named[0].store if named else trusted_stores(store)[0]
    remove = yes and not dry_run
    now = where.now()
    if now is None:
        where.clock_off()  # which says why
        raise TransientError(f"store: {where.url} does not tell what time it is, so nobody knows what is older")
    found = find(where, data_home(), now=now, older_than_s=age, remove=remove, runs=[one.run for one in named])
    if as_json:
        typer.echo(json.dumps({**found.model_dump(mode="json"), "bytes": found.bytes, "removed": remove}, indent=2))
    else:
        _show(running, found, remove)


def _show(running: typer.Context, found: Purged, removed: bool) -> None:
    from cli.again import again
    from cli.console import out
    from sojourn.harmless import line
    from sojourn.shorthand import counted, format_bytes, format_duration

    verb, now = "removed" if removed else "would go", time.time()
    for run in found.runs:
        left = "of which something cannot be read" if run.unreadable else "left by an earlier purge"
        age = f"closed {format_duration(now - run.closed_at)} ago" if run.closed_at else left
        out.print(f"{verb:<10}{run.run}  {run.project}  {age}  {format_bytes(run.bytes)}", markup=False)
    for digest in found.environments:
        out.print(f"{verb:<10}environment {digest}", markup=False)
    for kept in found.kept:
        out.print(line(f"{'stays':<10}{kept.run}  {kept.project}  {kept.reason}"), markup=False)
    if not (found.runs or found.bytes or found.machines):
        out.print(f"Nothing to remove by: {again(running)}", markup=False)
        return
    counts = (
        f"{counted(len(found.runs), 'run')}, {counted(found.blobs, 'shared file')} that no other run names, "
        f"{counted(len(found.environments), 'environment')}, records of {counted(len(found.machines), 'machine')}"
    )
    out.print(f"{counts}: {format_bytes(found.bytes)}", markup=False)
    if not removed:
        out.print(f"Nothing was removed. Do it: {again(running, '--yes', but=('yes', 'dry_run'))}", markup=False)
