"""`sojourn stop RUN`: ask a run to end early, from any terminal."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from cli import options

if TYPE_CHECKING:
    from sojourn.store.mailbox import Mailbox

STOP_WAIT_S = 120.0


def stop(
    run: options.Run,
    wait: Annotated[bool, typer.Option(help="Wait until the script has ended.")] = True,
    store: options.StoreUrl = None,
) -> None:
    """Stop a run: its checkpoint is committed, its results come home, its machines go. Held machines go at once.

    Example: sojourn stop last
    """
    from cli.console import out
    from cli.world import named_run, stores_for
    from sojourn.errors import SojournError, UnreadableError
    from sojourn.lease.state import fold
    from sojourn.protocol import Stop
    from sojourn.run.runs import entries_of, is_held
    from sojourn.run.salvage import is_closed
    from sojourn.waiting import SystemClock, wait_for

    mailbox = named_run(run, stores_for(run, store))
    now = mailbox.store.now() or time.time()
    try:
        state = fold(entries_of(mailbox))
    except UnreadableError as error:  # its machines hear of it all the same, whatever they are
        if is_closed(mailbox):
            out.print(f"{mailbox.run} is over already; see it: sojourn show {mailbox.run}")
            return
        mailbox.request_stop(Stop(reason="sojourn stop", at=now))
        raise SojournError(
            f"{mailbox.run} is asked to stop, and whether it does cannot be told: {error.message}",
            hint=f"its machines end at their deadline at the latest: sojourn reap; its log: sojourn logs {mailbox.run}",
        ) from error
    held = is_held(state, now)
    if state.outcome is not None and not held:
        out.print(f"{mailbox.run} is over already; see it: sojourn show {mailbox.run}")
        return
    mailbox.request_stop(Stop(reason="sojourn stop", at=now))
    if wait:
        wait_for(
            lambda: _let_go(mailbox, state.attempt) if held else _ended(mailbox, state.attempt),
            what=f"{mailbox.run} did not confirm the stop",
            limit_s=STOP_WAIT_S,
            clock=SystemClock(),
        )
    out.print(f"{mailbox.run} stops; its results come home where it was started, or by: sojourn attach {mailbox.run}")


def _ended(mailbox: Mailbox, attempt: int) -> bool | None:
    """Whether the script has, or None; each machine says so before its owner does."""
    from sojourn.lease.state import fold
    from sojourn.run.runs import entries_of

    return mailbox.exit(attempt, 0) is not None or fold(entries_of(mailbox)).outcome is not None or None


def _let_go(mailbox: Mailbox, attempt: int) -> bool | None:
    """Whether held machines are given back, or have ended by themselves where nobody owns the run; or None."""
    from sojourn.lease.state import fold
    from sojourn.run.runs import entries_of

    beat = mailbox.beat(attempt, 0)
    return fold(entries_of(mailbox)).released_at is not None or (beat is not None and beat.phase == "done") or None
