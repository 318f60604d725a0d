"""Ends what outlived its run, and brings home what nobody waits for any more. It needs no memory.

Each cloud is asked once, for lists of what stands in it, and before the books; what the lists show is judged.
A machine is ended when it is past its deadline and grace, when its run is over, or when no ledger knows it, it is
older than the grace, and a second look finds the same. A run is closed, as `attach` would do it, when its attempt
is over and its owner gave no sign of life; one whose script still runs goes on without an owner until a later
sweep. Everything else is left, and the reason is said.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from sojourn.errors import (
    AccessError,
    GoneError,
    SojournError,
    SpecError,
    SupersededError,
    TeardownError,
    TransientError,
    UnreadableError,
)
from sojourn.lease.state import MARGIN_S, State, fold
from sojourn.plan.planning import Plan
from sojourn.protocol import Outcome
from sojourn.providers.contract import Provider
from sojourn.records import Record
from sojourn.renting import Lease, Lookalike
from sojourn.results.report import Report
from sojourn.run import faults
from sojourn.run.journey import Journey, bring_home
from sojourn.run.runs import entries_of, projects_of, shut_projects, unsettled, ways
from sojourn.run.salvage import is_closed
from sojourn.shorthand import format_duration
from sojourn.store.known_stores import each_once, forget, is_kept_in, remembered
from sojourn.store.ledger import Entry
from sojourn.store.mailbox import Mailbox
from sojourn.store.storage import Store
from sojourn.waiting import Clock, SystemClock

STRANGER_GRACE_S = 600.0  # a lease whose ledger is not to be found may be seconds old, or in another store
SECOND_LOOK_S = 5.0  # after which a lease that no ledger knows is looked for once more, in the cloud and in the books
JUDGED_AT_ONCE = 256
JUDGED_WITHIN_S = 20.0  # what one store, or one object of it, takes longer for holds up no other machine's end
LISTED_WITHIN_S = 300.0  # the open runs of a store
OPENED_AT_ONCE = 64  # of these, to see which are over
UNKNOWN = "no ledger knows it"
SETTLING_S = 60.0  # between a run's outcome and the moment its own orchestrator must have released
GONE_LIMIT_S = 120.0  # what clouds may take to end machines that outlived their runs
GONE_EVERY_S, GONE_SELDOM_S = 2.0, 10.0  # between two looks at first, and later
SLOW = "its records take too long to read"
UNTOLD = "nobody knows whether it is late: neither store nor provider tells the time"
NAMELESS = "it does not show whose it is: reap without --project"

Action = Literal[
    "ended", "closed", "left", "failed", "unseen", "mended", "forgotten", "would end", "would close", "would mend",
    "would forget",
]  # fmt: skip
NEWS = ("ended", "closed", "failed")  # what somebody should hear of, for each of these outlived whoever had it in hand


_Seen = tuple[list[Lease], list[Lookalike]]


class Finding(Record):
    """One lease or run, and what was done about it."""

    name: str
    run: str
    action: Action
    reason: str


def reap(
    stores: Iterable[Store],
    providers: Sequence[Provider],
    journey_of: Callable[[Plan, Mailbox], Journey],
    *,
    dry_run: bool,
    project: str | None = None,
    clock: Clock | None = None,
    now: float | None = None,
    open_store: Callable[[str], Store] | None = None,
) -> Iterator[Finding]:
    """End every lease that outlived its run, then close the runs that are over and that nobody continues.

    A lease is judged by the ledger in its own store; what stands in stores that are met so is closed too.
    With `project`, what is another project's is neither touched nor told. The first of the stores is this host's own,
    or the one that was named: that it cannot be asked is a failure. Another that cannot be asked is told of, and one
    that is gone is "forgotten" unless a lease names it; `forget_stores` acts on that.

    `open_store` opens those that leases name, and knows which store each of them is.

    What is late is so by the clock of its store, or of its provider: this computer's may be a day ahead. `now` is for
    those who know it better.
    """
    clock = clock or SystemClock()
    known = _Known(open_store or partial(Store, expected=True), stores)
    own, standing = next(iter(known), None), set[str | None]()
    due: list[_Sent] = []
    whole: dict[str, Lease] = {}  # left, with all their machines
    for provider, found in _look(providers, clock):
        if isinstance(found, Finding):
            yield found
            continue
        leases, lookalikes = found
        yield from (_spared(one) for one in lookalikes if project in (None, one.project))
        standing |= {lease.store for lease in leases}
        concerned = [lease for lease in leases if project is None or lease.project in ("", project)]
        for lease, (why, end) in _verdicts(concerned, known, provider, project, now, clock):
            if end and not dry_run:
                due.append(_Sent(lease, why, provider))
            else:
                whole |= {lease.name: lease} if _is_whole(lease) and not end else {}
                yield _found(lease.name, lease.run, "would end" if end else "left", why)
    strangers = [one for one in due if one.why.startswith(UNKNOWN)]
    same = _seen_twice(strangers, known, now, clock)
    yield from (_found(one.lease.name, one.lease.run, "left", why) for one, why in same if why)
    spared = {id(one) for one, why in same if why}
    yield from _ended([one for one in due if id(one) not in spared], clock)
    runs: list[Mailbox] = []
    for mailbox in _unsettled(each_once(known.values()), own, project, note=not dry_run):
        if isinstance(mailbox, Finding):
            yield _forgotten(mailbox, standing, dry_run)
        else:
            runs.append(mailbox)
    for first in range(0, len(runs), OPENED_AT_ONCE):
        some = runs[first : first + OPENED_AT_ONCE]
        opened = clock.within(JUDGED_WITHIN_S, [partial(_opened, one, journey_of, now, whole) for one in some])
        for mailbox, one in zip(some, opened, strict=True):
            if finding := _closed(mailbox, SLOW if one is None else one, dry_run):
                yield finding


class _Known(dict[str, Store]):
    """The stores that a sweep has met, by their URLs; another is opened when a lease names it."""

    def __init__(self, open_store: Callable[[str], Store], stores: Iterable[Store]) -> None:
        super().__init__({store.url: store for store in stores})
        self._open = open_store

    def __missing__(self, url: str) -> Store:
        return self.setdefault(url, self._open(url))  # of two judges of its leases the first one's


def kept_stores(providers: Sequence[Provider], open_store: Callable[[str], Store] = Store) -> list[Store]:
    """The stores that accounts keep runs in by themselves; `reap` tells of an account that cannot be asked."""

    def ask(provider: Provider) -> list[str]:
        try:
            return provider.kept()
        except Exception:
            return []

    found = SystemClock().together([partial(ask, provider) for provider in providers])
    return [open_store(url) for urls in found for url in urls]


def _look(providers: Sequence[Provider], clock: Clock) -> Iterator[tuple[Provider, _Seen | Finding]]:
    """What stands at each provider, asked side by side; or that it could not be asked."""

    def ask(provider: Provider) -> _Seen | Exception:
        try:
            return provider.leases(), _lookalikes(provider)
        except Exception as error:  # what stands elsewhere is ended all the same
            return error

    answers = clock.together([partial(ask, provider) for provider in providers])
    seen = list(zip(providers, answers, strict=True))
    answered = {provider.name for provider, found in seen if isinstance(found, tuple)}
    for provider, found in seen:
        if isinstance(found, tuple):
            yield provider, found
            continue
        # Where these credentials are good, a place that they may not see is one where they rented nothing.
        closed = isinstance(found, AccessError) and provider.name in answered
        yield provider, _found(provider.name, "", "unseen" if closed else "failed", _words(found))


def _is_whole(lease: Lease) -> bool:
    """Whether all of its machines stand, as far as a list shows."""
    return bool(lease.machines) and all(one.state in ("starting", "running") for one in lease.machines)


def _lookalikes(provider: Provider) -> list[Lookalike]:
    try:
        return provider.lookalikes()
    except Exception:  # no machine of ours may live on for that; the next sweep tells of them
        return []


def _spared(one: Lookalike) -> Finding:
    why = f"it carries the tags of {one.lease}, but was not made by us; if it is nobody's, end it yourself"
    return _found(one.identity, "", "left", why)


def _unsettled(
    stores: Iterable[Store], own: str | None, project: str | None, note: bool
) -> Iterator[Mailbox | Finding]:
    """Every run of every store that is not closed; what one store keeps is closed though another does not answer."""
    for store in stores:
        try:
            yield from _listed(store, project, note)
            for name in shut_projects(store):
                told = "its runs are another user's, who lets nobody look; only that user can close them"
                yield _found(f"{store.url} {name}", "", "unseen", told)
        except GoneError as error:
            yield _found(store.url, "", "unseen" if store.url == own else "forgotten", error.message)
        except Exception as error:
            advice = "" if store.url == own else f"; if it is of no use any more: sojourn runs --forget {store.url}"
            yield _found(store.url, "", "failed" if store.url == own else "unseen", _words(error) + advice)


def _listed(store: Store, project: str | None, note: bool) -> list[Mailbox]:
    (runs,) = store.clock.within(LISTED_WITHIN_S, [lambda: list(unsettled(store, project, note))])
    if runs is None:
        raise TransientError(f"the list of its runs did not come within {LISTED_WITHIN_S:.0f} s")
    return runs


def _forgotten(about: Finding, standing: set[str | None], dry_run: bool) -> Finding:
    """A store that is gone is remembered no more, unless something still stands that names it."""
    if about.action != "forgotten":
        return about
    if about.name in standing:
        return about.model_copy(update={"action": "unseen"})
    return about.model_copy(update={"action": "would forget" if dry_run else "forgotten"})


def forget_stores(home: Path, findings: Iterable[Finding]) -> None:
    """Look no more into the stores that a sweep found to be gone."""
    known = remembered(home)
    for finding in findings:
        if finding.action == "forgotten" and finding.name in known:
            forget(home, finding.name)


def _verdicts(
    leases: Sequence[Lease],
    known: _Known,
    provider: Provider,
    project: str | None,
    now: float | None,
    clock: Clock,
) -> Iterator[tuple[Lease, tuple[str, bool]]]:
    """Each lease with why it is left or ended, many ledgers read side by side."""

    def judge(lease: Lease) -> tuple[str, bool]:
        return _judged(lease, known, provider, now) if project in (None, lease.project) else (NAMELESS, False)

    for first in range(0, len(leases), JUDGED_AT_ONCE):
        some = leases[first : first + JUDGED_AT_ONCE]
        found = clock.within(JUDGED_WITHIN_S, [partial(judge, lease) for lease in some])
        yield from zip(some, _all_judged(some, found, provider, now, clock), strict=True)


def _all_judged(
    leases: Sequence[Lease],
    found: Sequence[tuple[str, bool] | None],
    provider: Provider,
    now: float | None,
    clock: Clock,
) -> list[tuple[str, bool]]:
    """With those whose records did not come in time: they may live until their deadline, by their provider's clock."""
    if None in found and now is None:
        (now,) = clock.within(JUDGED_WITHIN_S, [provider.now])
    return [_unread(lease, SLOW, now) if one is None else one for lease, one in zip(leases, found, strict=True)]


def _seen_twice(
    strangers: Sequence[_Sent], known: _Known, now: float | None, clock: Clock
) -> list[tuple[_Sent, str | None]]:
    """Leases that no ledger knew, each with why it is spared: it has gone, or a ledger knows it now."""
    if not strangers:
        return []
    clock.sleep(SECOND_LOOK_S)
    seen: dict[int, dict[str, Lease]] = {}
    for provider, found in _look(list({id(one.provider): one.provider for one in strangers}.values()), clock):
        if not isinstance(found, Finding):
            seen[id(provider)] = {lease.name: lease for lease in found[0]}

    def again(one: _Sent) -> str:
        if id(one.provider) not in seen:
            return f"{one.why}; where it stands gave no second answer"
        if one.lease.name not in seen[id(one.provider)]:
            return f"{one.why}; it is not seen any more"
        why, end = _judged(seen[id(one.provider)][one.lease.name], known, one.provider, now)
        return "" if end else why

    answers = clock.within(JUDGED_WITHIN_S, [partial(again, one) for one in strangers])
    return [(one, SLOW if why is None else why or None) for one, why in zip(strangers, answers, strict=True)]


def _judged(lease: Lease, known: _Known, provider: Provider, now: float | None) -> tuple[str, bool]:
    """Why a lease is left or ended. One whose ledger cannot be read may live until its deadline."""
    now = _time_for(lease, known, provider) if now is None else now
    try:
        return _verdict(lease, _ledger(lease, known), now)
    except Exception as error:  # whatever its records are, the next lease is judged by its own
        return _unread(lease, f"its ledger cannot be read: {_words(error)}", now)


def _unread(lease: Lease, why: str, now: float | None) -> tuple[str, bool]:
    """One whose records nobody has read may live until its deadline."""
    if now is None:
        return f"its ledger cannot be read, and {UNTOLD}", False
    late = bool(lease.deadline_at) and now > lease.ends_at + MARGIN_S
    return _verdict(lease, [], now) if late else (why, False)


def _time_for(lease: Lease, known: _Known, provider: Provider) -> float | None:
    """What time it is where the lease's deadline was set; None when neither store nor provider tells."""
    try:
        store = known[lease.store] if lease.store is not None else None
        told = store.now() if store is not None else None
        return provider.now() if told is None else told
    except Exception:  # an address that is none, or an account that does not answer
        return None


def _ledger(lease: Lease, known: _Known) -> list[Entry]:
    if lease.store is not None:
        store = known[lease.store]
        return _whole_ledger(Mailbox(store, lease.project, lease.run))
    for store in list(known.values()):
        for project in [lease.project] if lease.project else projects_of(store):
            if entries := _whole_ledger(Mailbox(store, project, lease.run)):
                return entries
    return []


def _whole_ledger(mailbox: Mailbox) -> list[Entry]:
    """The ledger of a run, of which nothing may be missing where it is a reason to end something.

    Raises UnreadableError for one with a gap, and for a run that is there without one, which is not unknown.
    """
    entries = entries_of(mailbox)
    state = fold(entries)
    if entries and state.outcome is None and state.lost is None and state.released_at is None:
        return entries
    there = mailbox.store.keys(mailbox.control)
    lines = sum(key.startswith(f"{mailbox.control}/ledger/") for key in there)
    if lines > len(entries) or (there and not entries):
        missing = f"{mailbox.control}/ledger/{len(entries):06d}.json"
        raise UnreadableError(f"{missing} is not there, and more of its run is")
    return entries


def _verdict(lease: Lease, entries: list[Entry], now: float | None) -> tuple[str, bool]:
    if now is None:
        return _timeless(lease, entries)
    if lease.deadline_at and now > lease.ends_at + MARGIN_S:  # until then its agents may be committing
        return f"its deadline passed {format_duration(now - lease.deadline_at)} ago", True
    if not entries:
        born = [one.created_at for one in lease.machines] + [one.created_at for one in lease.parts]
        age = now - min(filter(None, born), default=now)
        known = f"{UNKNOWN}, and it is {format_duration(age)} old"
        return known, age > STRANGER_GRACE_S
    state = fold(entries)
    if given_back := _given_back(lease, state):
        return given_back, True
    if state.lost is not None and now > state.lost.ended_at + SETTLING_S:
        return "its attempt is lost, and nobody gave it back", True
    if state.outcome is not None and now > _over_at(state.outcome) + SETTLING_S:
        return f"its run is over ({state.outcome.state})", True
    left = format_duration(max(0.0, lease.deadline_at - now))
    return f"its run goes on; {left} to its deadline", False


def _given_back(lease: Lease, state: State) -> str | None:
    """What the ledger says of a lease that is its run's no more, whatever the time is."""
    if state.name not in (None, lease.name):
        return "its run has another lease now"
    return "its run gave it back" if state.gone_at is not None or state.released_at is not None else None


def _timeless(lease: Lease, entries: list[Entry]) -> tuple[str, bool]:
    given_back = _given_back(lease, fold(entries)) if entries else None
    return given_back or UNTOLD, given_back is not None


def _over_at(outcome: Outcome) -> float:
    return outcome.hold.until if outcome.hold else outcome.ended_at


@dataclass
class _Sent:
    """A lease whose end was asked for."""

    lease: Lease
    why: str
    provider: Provider
    gone: bool = False
    trouble: str = "its end was asked for, and is not confirmed yet"


def _send(some: Sequence[_Sent], clock: Clock) -> None:
    """Ask for their end, each provider for all of its own, and see whether anything is left."""
    by_provider: dict[int, list[_Sent]] = {}
    for one in some:
        by_provider.setdefault(id(one.provider), []).append(one)

    def send(ours: Sequence[_Sent]) -> list[bool | Exception]:
        try:
            return ours[0].provider.release_all([one.lease.name for one in ours])
        except Exception as error:  # the others are waited for too
            return [error] * len(ours)

    answers = clock.together([partial(send, ours) for ours in by_provider.values()])
    for ours, said in zip(by_provider.values(), answers, strict=True):
        for one, answer in zip(ours, said, strict=True):
            one.gone = answer is True
            one.trouble = _words(answer) if isinstance(answer, Exception) else _Sent.trouble


def _ended(sent: list[_Sent], clock: Clock) -> Iterator[Finding]:
    """What became of them; clouds take their time to end a machine, and remove what belongs to it only then."""
    end, pause = clock.monotonic() + GONE_LIMIT_S, GONE_EVERY_S
    _send(sent, clock)
    while (waiting := [one for one in sent if not one.gone]) and clock.monotonic() < end:
        clock.sleep(pause)
        pause = min(1.5 * pause, GONE_SELDOM_S)
        _send(waiting, clock)
    for one in sent:
        why = one.why if one.gone else f"{one.why}; {one.trouble}"
        yield _found(one.lease.name, one.lease.run, "ended" if one.gone else "failed", why)


def _opened(
    mailbox: Mailbox,
    journey_of: Callable[[Plan, Mailbox], Journey],
    now: float | None,
    whole: Mapping[str, Lease],
) -> Journey | Finding | Literal["goes on"]:
    """A run that is over, for which somebody may act in place of its dead owner; or what is told of another."""
    run = mailbox.run
    try:
        plan, report = mailbox.read("plan", Plan), mailbox.read("report", Report)
        if plan is None or report is not None:
            return "goes on"
        journey = journey_of(plan, mailbox)
        now = mailbox.store.now() if now is None else now
        if now is None:
            return _found(run, run, "left", f"the store {mailbox.store.url} does not tell what time it is")
        journey.clock.go_by(now)
        overdue = now >= plan.deadline_at + plan.launch.grace + MARGIN_S
        if not is_kept_in(plan.store, mailbox.store):
            return _found(run, run, "left", _copied(plan, mailbox.store)) if overdue else "goes on"
        state = journey.orchestrator.state
        listed = whole.get(state.name or "")
        if listed is None and _elsewhere(plan, state, journey.provider):
            return _found(run, run, "left", f"its machines are {plan.host}'s, reap there") if overdue else "goes on"
        # To go on with a run that is not over may mean to rent; that is for a person or a retry to say.
        return journey if journey.orchestrator.over(listed) else "goes on"
    except UnreadableError as error:  # another version wrote it, as likely as not
        return "goes on" if is_closed(mailbox) else _untouched(run, error)
    except Exception as error:  # one run's damaged records must not keep the others from being brought home
        return _untouched(run, error)


def _closed(mailbox: Mailbox, opened: Journey | Finding | str, dry_run: bool) -> Finding | None:
    """Bring a run home that is over; None when there is nothing to do yet, or any more."""
    run = mailbox.run
    if isinstance(opened, Finding):
        return opened
    if isinstance(opened, str):
        return _found(run, run, "failed", opened) if opened == SLOW else None
    if dry_run:
        return _found(run, run, "would close", "it is over and not home, unless its owner lives")
    try:
        closed = bring_home(opened)
    except Exception as error:
        return _untouched(run, error)
    there = "" if opened.planned_here else f"; {closed.published.note}"
    return _found(run, run, "closed", f"{closed.state}: {closed.message}{there}")


def _copied(plan: Plan, store: Store) -> str:
    there = f"it is kept in {plan.store}, of which {store.url} is a copy, or which was moved there"
    return f"{there}; if it was moved: sojourn attach {plan.run} --store {store.url}"


def _untouched(run: str, error: Exception) -> Finding:
    if isinstance(error, UnreadableError):
        remedy = f"{ways(run)}; if it is of no use: sojourn purge {run} --yes"
        return _found(run, run, "left", f"{error.message}; {remedy}")
    if isinstance(error, (SupersededError, SpecError)):
        return _found(run, run, "left", error.message)
    return _found(run, run, "failed", _words(error))


def _elsewhere(plan: Plan, state: State, provider: Provider) -> bool:
    """Whether the run's machines are processes of another host, about which this one knows nothing."""
    if plan.launch.where != "local" or state.created_at is None or state.name is None:
        return False
    return plan.host != socket.gethostname() or provider.observe(state.name) is None


def _words(error: Exception) -> str:
    return error.message if isinstance(error, SojournError) else faults.words(error)


def _found(name: str, run: str, action: Action, reason: str) -> Finding:
    return Finding(name=name, run=run, action=action, reason=reason)


def raise_for_failed(findings: Iterable[Finding]) -> None:
    """Raise TeardownError naming what could not be looked at, ended or brought home; nothing when all could."""
    failed = [finding for finding in findings if finding.action == "failed"]
    ours = ", ".join(finding.name for finding in failed if finding.run not in ("", finding.name))
    books = ", ".join(finding.name for finding in failed if finding.run == finding.name)
    blind = ", ".join(dict.fromkeys(finding.name for finding in failed if not finding.run))
    told = [f"found and could not be ended: {ours}"] if ours else []
    told += [f"could not be closed, by their books alone: {books}"] if books else []
    told += [f"could not be looked at: {blind}"] if blind else []
    if told:
        raise TeardownError("; ".join(told), hint="the reasons stand above; try again: sojourn reap")
