"""What can be had of a run whose records this version cannot read: another version wrote them, or they are damaged.

Machines' own words and commits have names that any version knows, so a log can be read, results fetched and a script
be stopped though plan or ledger say nothing. Whatever cannot be done names these ways (`runs.ways`), which work.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from sojourn.errors import UnreadableError
from sojourn.lease.state import State, fold
from sojourn.results.collect import Collected, collect
from sojourn.run.runs import entries_of, ways
from sojourn.store.ledger import Entry, read_entry
from sojourn.store.mailbox import Mailbox


def entries_read(mailbox: Mailbox) -> list[Entry]:
    """The ledger up to the first line that cannot be read."""
    entries: list[Entry] = []
    with suppress(UnreadableError):
        while (entry := read_entry(mailbox, len(entries))) is not None:
            entries.append(entry)
    return entries


@contextmanager
def naming_ways(run: str) -> Iterator[None]:
    """Whatever cannot be read of it in the block, the error names what works all the same."""
    try:
        yield
    except UnreadableError as error:
        if (helps := ways(run)) not in (error.hint or ""):
            error.hint = f"{helps}\n  {error.hint}" if error.hint else helps
        raise


def state_of(mailbox: Mailbox) -> State:
    """Where the lease stands by the ledger; where that cannot be read, as the machines' folders show it."""
    try:
        return fold(entries_of(mailbox))
    except UnreadableError:
        attempt = max(mailbox.attempts_of_machines(), default=1)
        return State(attempt=attempt, ordered_at=0.0)


def results(mailbox: Mailbox) -> Collected:
    """What its machines committed, without a word of its plan."""
    state, declared = state_of(mailbox), False
    with suppress(UnreadableError):
        declared = bool((mailbox.raw("plan") or {}).get("stage"))
    exits = state.outcome.exits if state.outcome else ()
    return collect(mailbox, state.attempt, mailbox.machines(state.attempt) or 1, declared=declared, exits=exits)


def is_closed(mailbox: Mailbox) -> bool:
    """Whether whoever wrote its records says that nothing is left to do, as far as any version can tell."""
    with suppress(UnreadableError):
        return any(entry.kind == "closed" for entry in entries_of(mailbox))
    with suppress(UnreadableError):
        return (mailbox.raw("report") or {}).get("receipt") == "closed"
    return False
