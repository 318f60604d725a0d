"""Ends what outlived its run: joins the provider's inventory with the ledgers, and needs no memory.

A machine is ended when it is past its deadline, when its run is over, or when no ledger
knows it and it is older than the grace. Everything else is left, and the reason is said.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

from sojourn.errors import SojournError, SpecError
from sojourn.journey import Journey
from sojourn.lease import MARGIN_S, fold
from sojourn.ledger import Entry
from sojourn.mailbox import Mailbox
from sojourn.planning import Plan
from sojourn.providers import Provider
from sojourn.records import Lease, Receipt, Record
from sojourn.runs import all_mailboxes, entries_of
from sojourn.spec import format_duration
from sojourn.storage import Store

STRANGER_GRACE_S = 600.0  # a lease whose ledger is not to be found may be seconds old, or in another store
SETTLING_S = 60.0  # between a run's outcome and the moment its own orchestrator must have released


class Finding(Record):
    """One lease or run, and what was done about it."""

    name: str
    run: str
    action: Literal["ended", "closed", "left", "failed", "would end", "would close"]
    reason: str


def reap(
    store: Store, provider: Provider, journey_of: Callable[[Plan, Mailbox], Journey], *, now: float, dry_run: bool
) -> Iterator[Finding]:
    """End every lease that outlived its run, then close the books of runs that nobody continues."""
    mailboxes = {mailbox.run: mailbox for mailbox in all_mailboxes(store)}
    for lease in provider.leases():
        mailbox = mailboxes.get(lease.run)
        why, end = _verdict(lease, entries_of(mailbox) if mailbox else [], now)
        yield (
            _end(lease, why, provider, dry_run)
            if end
            else Finding(name=lease.name, run=lease.run, action="left", reason=why)
        )
    for mailbox in mailboxes.values():
        finding = _close(mailbox, journey_of, now, dry_run)
        if finding is not None:
            yield finding


def _verdict(lease: Lease, entries: list[Entry], now: float) -> tuple[str, bool]:
    if lease.deadline_at and now > lease.deadline_at + MARGIN_S:
        return f"its deadline passed {format_duration(now - lease.deadline_at)} ago", True
    if not entries:
        age = now - min((one.created_at for one in lease.machines if one.created_at), default=now)
        known = f"no ledger knows it, and it is {format_duration(age)} old"
        return known, age > STRANGER_GRACE_S
    state = fold(entries)
    if state.name not in (None, lease.name):
        return "its run has another lease now", True
    if state.gone_at is not None or state.released_at is not None:
        return "its run gave it back", True
    if state.outcome is not None and now > state.outcome.ended_at + SETTLING_S:
        return f"its run is over ({state.outcome.state})", True
    left = format_duration(max(0.0, lease.deadline_at - now))
    return f"its run goes on; {left} to its deadline", False


def _end(lease: Lease, why: str, provider: Provider, dry_run: bool) -> Finding:
    if dry_run:
        return Finding(name=lease.name, run=lease.run, action="would end", reason=why)
    try:
        ended = provider.release(lease.name)
    except SojournError as error:
        return Finding(name=lease.name, run=lease.run, action="failed", reason=f"{why}; {error.message}")
    return Finding(name=lease.name, run=lease.run, action="ended" if ended else "failed", reason=why)


def _close(
    mailbox: Mailbox, journey_of: Callable[[Plan, Mailbox], Journey], now: float, dry_run: bool
) -> Finding | None:
    """Write the receipt of a run that is past its deadline and has none, in place of its dead orchestrator."""
    try:
        plan, receipt = mailbox.read("plan", Plan), mailbox.read("receipt", Receipt)
    except SpecError as error:
        return Finding(name=mailbox.run, run=mailbox.run, action="left", reason=error.message)
    if plan is None or (receipt and receipt.state == "closed") or now < plan.deadline_at + plan.launch.grace + MARGIN_S:
        return None
    if dry_run:
        return Finding(name=mailbox.run, run=mailbox.run, action="would close", reason="it has no receipt")
    journey = journey_of(plan, mailbox)
    try:
        with journey.held():
            outcome = journey.settle()
    except SojournError as error:
        return Finding(name=mailbox.run, run=mailbox.run, action="failed", reason=error.message)
    return Finding(name=mailbox.run, run=mailbox.run, action="closed", reason=f"{outcome.state}: {outcome.message}")
