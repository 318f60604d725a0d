"""Ends what outlived its run, and brings home what nobody waits for any more. It needs no memory.

A machine is ended when it is past its deadline, when its run is over, or when no ledger
knows it and it is older than the grace. A run is closed, as `attach` would do it, when its
attempt is over and its owner gave no sign of life; one whose script still runs goes on
without an owner until a later sweep. Everything else is left, and the reason is said.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Iterator
from typing import Literal

from sojourn.errors import SojournError, SpecError, SupersededError, TeardownError
from sojourn.journey import Journey, bring_home
from sojourn.lease import MARGIN_S, State, fold
from sojourn.ledger import Entry
from sojourn.mailbox import Mailbox
from sojourn.planning import Plan
from sojourn.providers import Provider
from sojourn.records import Lease, Outcome, Record
from sojourn.report import Report
from sojourn.runs import all_mailboxes, entries_of
from sojourn.shorthand import format_duration
from sojourn.storage import Store

STRANGER_GRACE_S = 600.0  # a lease whose ledger is not to be found may be seconds old, or in another store
SETTLING_S = 60.0  # between a run's outcome and the moment its own orchestrator must have released


Action = Literal["ended", "closed", "left", "failed", "mended", "would end", "would close", "would mend"]


class Finding(Record):
    """One lease or run, and what was done about it."""

    name: str
    run: str
    action: Action
    reason: str


def reap(
    stores: Iterable[Store],
    providers: Iterable[Provider],
    journey_of: Callable[[Plan, Mailbox], Journey],
    *,
    now: float,
    dry_run: bool,
) -> Iterator[Finding]:
    """End every lease that outlived its run, then close the runs that are over and that nobody continues.

    A lease is judged by the ledger in its own store; what stands in stores that are met so is closed too.
    """
    known = {store.url: store for store in stores}
    for provider in providers:
        try:
            leases = provider.leases()
        except SojournError as error:
            yield _found(provider.name, "", "failed", error.message)
            continue
        for lease in leases:
            why, end = _judged(lease, known, now)
            yield (_end(lease, why, provider, dry_run) if end else _found(lease.name, lease.run, "left", why))
    for store in known.values():
        try:
            mailboxes = all_mailboxes(store)
        except SojournError as error:  # what another store keeps is closed all the same
            yield _found(store.url, "", "failed", error.message)
            continue
        for mailbox in mailboxes:
            finding = _close(mailbox, journey_of, now, dry_run)
            if finding is not None:
                yield finding


def _judged(lease: Lease, known: dict[str, Store], now: float) -> tuple[str, bool]:
    """Why a lease is left or ended. One whose ledger cannot be read may live until its deadline."""
    try:
        entries = _ledger(lease, known)
    except SojournError as error:
        late = bool(lease.deadline_at) and now > lease.deadline_at + MARGIN_S
        return _verdict(lease, [], now) if late else (f"its ledger cannot be read: {error.message}", False)
    return _verdict(lease, entries, now)


def _ledger(lease: Lease, known: dict[str, Store]) -> list[Entry]:
    if lease.store is not None:
        store = known.setdefault(lease.store, Store(lease.store))
        return entries_of(Mailbox(store, lease.project, lease.run))
    for store in known.values():
        for mailbox in all_mailboxes(store):
            if mailbox.run == lease.run:
                return entries_of(mailbox)
    return []


def _verdict(lease: Lease, entries: list[Entry], now: float) -> tuple[str, bool]:
    if lease.deadline_at and now > lease.deadline_at + MARGIN_S:
        return f"its deadline passed {format_duration(now - lease.deadline_at)} ago", True
    if not entries:
        born = [one.created_at for one in lease.machines] + [one.created_at for one in lease.parts]
        age = now - min(filter(None, born), default=now)
        known = f"no ledger knows it, and it is {format_duration(age)} old"
        return known, age > STRANGER_GRACE_S
    state = fold(entries)
    if state.name not in (None, lease.name):
        return "its run has another lease now", True
    if state.gone_at is not None or state.released_at is not None:
        return "its run gave it back", True
    if state.lost is not None and now > state.lost.ended_at + SETTLING_S:
        return "its attempt is lost, and nobody gave it back", True
    if state.outcome is not None and now > _over_at(state.outcome) + SETTLING_S:
        return f"its run is over ({state.outcome.state})", True
    left = format_duration(max(0.0, lease.deadline_at - now))
    return f"its run goes on; {left} to its deadline", False


def _over_at(outcome: Outcome) -> float:
    return outcome.hold.until if outcome.hold else outcome.ended_at


def _end(lease: Lease, why: str, provider: Provider, dry_run: bool) -> Finding:
    if dry_run:
        return _found(lease.name, lease.run, "would end", why)
    try:
        ended = provider.release(lease.name)
    except SojournError as error:
        return _found(lease.name, lease.run, "failed", f"{why}; {error.message}")
    return _found(lease.name, lease.run, "ended" if ended else "failed", why)


def _close(
    mailbox: Mailbox, journey_of: Callable[[Plan, Mailbox], Journey], now: float, dry_run: bool
) -> Finding | None:
    """Bring a run home in place of its dead owner; None when there is nothing to do yet, or any more."""
    run = mailbox.run
    try:
        plan, report = mailbox.read("plan", Plan), mailbox.read("report", Report)
        if plan is None or report is not None:
            return None
        journey = journey_of(plan, mailbox)
        if _elsewhere(plan, journey.orchestrator.state, journey.provider):
            overdue = now >= plan.deadline_at + plan.launch.grace + MARGIN_S
            return _found(run, run, "left", f"its machines are {plan.host}'s, reap there") if overdue else None
        # To go on with a run that is not over may mean to rent; that is for a person or a retry to say.
        if not journey.orchestrator.over():
            return None
        if dry_run:
            return _found(run, run, "would close", "it is over and not home, unless its owner lives")
        closed = bring_home(journey)
    except (SupersededError, SpecError) as error:
        return _found(run, run, "left", error.message)
    except SojournError as error:
        return _found(run, run, "failed", error.message)
    return _found(run, run, "closed", f"{closed.state}: {closed.message}")


def _elsewhere(plan: Plan, state: State, provider: Provider) -> bool:
    """Whether the run's machines are processes of another host, about which this one knows nothing."""
    if plan.launch.where != "local" or state.created_at is None or state.name is None:
        return False
    return plan.host != socket.gethostname() or provider.observe(state.name) is None


def _found(name: str, run: str, action: Action, reason: str) -> Finding:
    return Finding(name=name, run=run, action=action, reason=reason)


def raise_for_failed(findings: Iterable[Finding]) -> None:
    """Raise TeardownError naming what could not be ended or brought home; nothing when all could."""
    failed = [finding.name for finding in findings if finding.action == "failed"]
    if failed:
        raise TeardownError(f"found and could not be ended: {', '.join(failed)}", hint="try again: sojourn reap")
