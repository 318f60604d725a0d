"""`sojourn logs RUN`: what the script printed, whole, from the store."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from cli import options

if TYPE_CHECKING:
    from sojourn.store.mailbox import Mailbox

POLL_S = 0.2


def logs(
    run: options.Run = "last",
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on until the run is over.")] = False,
    node: Annotated[int, typer.Option(help="The machine whose log to print, from 0.")] = 0,
    diagnosis: Annotated[
        bool, typer.Option("--diagnosis", help="What a rented machine looked like when the script failed, instead.")
    ] = False,
    store: options.StoreUrl = None,
) -> None:
    """Print a run's log as the script wrote it, of every attempt.

    Example: sojourn logs last -f
    """
    from cli.raw import to_stream
    from cli.world import named_run, open_stores
    from sojourn.run.runs import check_node
    from sojourn.run.salvage import state_of
    from sojourn.waiting import SystemClock

    mailbox, clock = named_run(run, open_stores(store)), SystemClock()
    check_node(mailbox, node)
    if diagnosis:
        to_stream(sys.stdout)(f"{_diagnosis(mailbox, state_of(mailbox).attempt, node)}\n".encode())
        return
    attempt, printed, shown = 1, 0, to_stream(sys.stdout)
    while True:
        state = state_of(mailbox)
        ended = mailbox.exit(state.attempt, node) is not None or state.outcome is not None
        for segment in mailbox.log(attempt, node, start=printed):
            shown(segment.body)
            printed += 1
        if (ended or attempt < state.attempt) and (later := mailbox.log_after(attempt, node, printed)) is not None:
            gone = f"piece {printed} of this log is" if later == printed + 1 else f"pieces {printed} to {later - 1} are"
            shown(f"[{gone} not in the store]\n".encode())
            printed = later
            continue
        sys.stdout.flush()
        if attempt < state.attempt:
            attempt, printed = attempt + 1, 0
        elif ended or not follow:
            return
        else:
            clock.sleep(POLL_S)


def _diagnosis(mailbox: Mailbox, attempt: int, node: int) -> str:
    from sojourn.errors import SpecError

    found = mailbox.diagnosis(attempt, node)
    if found is None:
        raise SpecError(
            f"machine {node} of {mailbox.run} left no diagnosis: rented ones do when their script fails",
            hint=f"its log: sojourn logs {mailbox.run} --node {node}",
        )
    return found
