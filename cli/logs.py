"""`sojourn logs RUN`: what the script printed, whole, from the store."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from cli import options

POLL_S = 0.2


def logs(
    run: options.Run = "last",
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on until the run is over.")] = False,
    node: Annotated[int, typer.Option(help="The machine whose log to print, from 0.")] = 0,
    store: options.StoreUrl = None,
) -> None:
    """Print a run's log as the script wrote it.

    Example: sojourn logs last -f
    """
    from cli.world import open_stores
    from sojourn.lease import fold
    from sojourn.runs import entries_of, find_run
    from sojourn.waiting import SystemClock

    mailbox, clock = find_run(open_stores(store), run), SystemClock()
    printed = 0
    while True:
        state = fold(entries_of(mailbox))
        ended = mailbox.exit(state.attempt, node) is not None or state.outcome is not None
        for segment in mailbox.log(state.attempt, node, start=printed):
            sys.stdout.buffer.write(segment.body)
            printed += 1
        sys.stdout.buffer.flush()
        if ended or not follow:
            return
        clock.sleep(POLL_S)
