"""`sojourn stop RUN`: ask a run to end early, from any terminal."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from cli import options

STOP_WAIT_S = 120.0


def stop(
    run: options.Run,
    wait: Annotated[bool, typer.Option(help="Wait until the script has ended.")] = True,
    store: options.StoreUrl = None,
) -> None:
    """Stop a run: its checkpoint is committed, its results come home, its machines go.

    Example: sojourn stop last
    """
    from cli.console import out
    from cli.world import open_stores
    from sojourn.lease import fold
    from sojourn.records import Stop
    from sojourn.runs import entries_of, find_run
    from sojourn.waiting import SystemClock, wait_for

    mailbox = find_run(open_stores(store), run)
    if fold(entries_of(mailbox)).outcome is not None:
        out.print(f"{mailbox.run} is over already; see it: sojourn show {mailbox.run}")
        return
    mailbox.request_stop(Stop(reason="sojourn stop", at=time.time()))
    if wait:
        attempt = fold(entries_of(mailbox)).attempt
        wait_for(
            lambda: mailbox.exit(attempt, 0) or fold(entries_of(mailbox)).outcome,
            what=f"{mailbox.run} did not confirm the stop",
            limit_s=STOP_WAIT_S,
            clock=SystemClock(),
        )
    out.print(f"{mailbox.run} stops; its results come home where it was started, or by: sojourn attach {mailbox.run}")
