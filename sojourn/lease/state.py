"""The life of a lease as a pure state machine: no clock, no network, no Prefect.

`fold` reads the ledger into a state, `step` says what to do next given what was seen.
Because the state comes from the ledger alone, whoever takes a run over continues where
its former owner stopped, and the simulator drives the very same rules.

    nothing -> intent -> created -> ordered -> outcome -> released -> gone
                ^  |                      |
                |  refused                lost -> released -> gone -+
                +---------------------------------------------------+

Whoever is refused takes the next offer, and when all were refused begins again after a
while. Whoever lost the machines gives back what is left of them before it rents others.
Between outcome and release machines may be held, for somebody to look at.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import Field

from sojourn.decoding import decode_values
from sojourn.protocol import Exit, ExitReason, Hello, Hold, Outcome, RunState, Stop
from sojourn.records import Record
from sojourn.renting import Lease, Machine
from sojourn.shorthand import shortened
from sojourn.store.ledger import Entry

HELLO_LIMIT_S = 900.0  # a machine that says nothing for this long after its creation is lost
VISIBLE_LIMIT_S = 120.0  # machines that their own provider has not shown for this long are not there
PEERS_LIMIT_S = 30.0  # after one node failed the others have this long to say how they ended
ROUND_S = 30.0  # between two rounds through all offers, when none had machines
RESUME_LEAST_S = 60.0  # with less than this left before the deadline, other machines would come too late
MARGIN_S = 15.0  # agents and supervisors end by deadline + grace; only then do we stop believing in them


@dataclass(frozen=True)
class State:
    """What the ledger says about the newest lease of a run."""

    attempt: int = 1
    tried: tuple[tuple[int, str], ...] = ()
    sought_since: float | None = None
    refused_at: float | None = None
    after: int | None = None  # the offer whose machines the attempt before this one lost
    offer: int | None = None
    name: str | None = None
    request: dict[str, Any] | None = None
    intended_at: float | None = None
    created_at: float | None = None
    ordered_at: float | None = None
    names: Mapping[str, str] = field(default_factory=dict)  # what its machines call themselves, by their ids
    seals: tuple[str | None, ...] = ()  # by node: what tells its machine's last words from its script's
    lost: Outcome | None = None  # how this attempt ended, where the run goes on with another
    outcome: Outcome | None = None
    released_at: float | None = None
    gone_at: float | None = None


@dataclass(frozen=True)
class Terms:
    """What was agreed in the plan."""

    nodes: int
    offers: int
    deadline_at: float
    grace_s: float
    visible_after_s: float = 0.0  # how long a cloud may not show what it has just made
    wait_s: float = 0.0  # how long machines are looked for when no offer has any
    resumes: int = 0  # how often lost machines are replaced


@dataclass(frozen=True)
class Seen:
    """What could be observed at `now`. The provider was asked before the mailbox was read."""

    now: float
    lease: Lease | None = None
    hellos: tuple[Hello | None, ...] = ()
    exits: tuple[Exit | None, ...] = ()
    unheard: tuple[str, ...] = ()  # what lies in the place of last words, where machines ended without any
    stop: Stop | None = None
    release_now: bool = False


@dataclass(frozen=True)
class Intend:
    """Write the intention to take this offer."""

    offer: int
    attempt: int = 1


@dataclass(frozen=True)
class Create:
    """Send the intended request, for the first time or again."""


@dataclass(frozen=True)
class PostOrder:
    """All machines said hello: tell them what to do."""


@dataclass(frozen=True)
class Lose:
    """The attempt is over, and the run goes on with other machines."""

    outcome: Outcome


@dataclass(frozen=True)
class Conclude:
    """The run is over."""

    outcome: Outcome


@dataclass(frozen=True)
class Release:
    """Give the machines back."""


@dataclass(frozen=True)
class Gone:
    """The provider says that nothing is left."""


Action = Intend | Create | PostOrder | Lose | Conclude | Release | Gone


def fold(entries: Iterable[Entry]) -> State:
    """The state that a ledger describes."""
    state = State()
    for entry in entries:
        state = _apply(state, entry)
    return state


def step(state: State, seen: Seen, terms: Terms) -> Action | None:
    """The one thing to do now, or None to look again later."""
    if state.outcome is not None or state.lost is not None:
        if state.gone_at is None:
            return _give_back(state, seen, terms)
        return None if state.lost is None or state.outcome is not None else _begin_again(state, state.lost, seen, terms)
    ended = _ending(state, seen, terms)
    if ended is not None:
        return Lose(ended) if _goes_on(state, ended, seen, terms) else Conclude(ended)
    if state.created_at is None:
        return Create() if state.request is not None else _next_offer(state, seen, terms)
    if state.ordered_at is None and seen.hellos and all(seen.hellos):
        return PostOrder()
    return None


def held(state: State, seen: Seen, terms: Terms) -> bool:
    """Whether the machines of a script that failed stand for somebody to look at."""
    hold = state.outcome.hold if state.outcome else None
    if hold is None or state.released_at is not None or seen.stop is not None or seen.release_now:
        return False
    if seen.lease is None:  # which a cloud also says of what it does not show yet
        standing = not _nothing_left(state, seen, terms)
    else:
        standing = any(one.state in ("starting", "running") for one in seen.lease.machines)
    return standing and seen.now < min(hold.until, terms.deadline_at)


def _give_back(state: State, seen: Seen, terms: Terms) -> Action | None:
    if held(state, seen, terms):
        return None
    return Gone() if state.released_at is not None and _nothing_left(state, seen, terms) else Release()


def _begin_again(state: State, lost: Outcome, seen: Seen, terms: Terms) -> Action:
    """The next attempt, once nothing is left of the one before."""
    if seen.release_now or seen.stop is not None:
        why = seen.stop.reason if seen.stop else "at once"
        return Conclude(_outcome("stopped", f"stopped between two attempts: {why}", seen, []))
    if seen.now >= terms.deadline_at:
        return Conclude(_outcome("deadline", "the deadline passed before other machines were had", seen, []))
    if state.attempt > terms.resumes:  # whoever goes on now may not rent
        return Conclude(lost)
    return Intend(((state.offer or 0) + 1) % terms.offers, state.attempt + 1)


def _next_offer(state: State, seen: Seen, terms: Terms) -> Action | None:
    """The offer after the last one that was refused; a while passes before the first one's turn comes again."""
    if state.tried and len(state.tried) % terms.offers == 0 and seen.now < (state.refused_at or 0.0) + ROUND_S:
        return None
    first = 0 if state.after is None else state.after + 1
    return Intend((first + len(state.tried)) % terms.offers, state.attempt)


def _goes_on(state: State, ended: Outcome, seen: Seen, terms: Terms) -> bool:
    """Whether other machines may do better: these were lost, and there is time and leave to rent again."""
    allowed = state.attempt <= terms.resumes and seen.stop is None and not seen.release_now
    affordable = seen.now + RESUME_LEAST_S < terms.deadline_at and not _over_budget(seen, terms)
    done = ended.exit_code == 0 and all(map(_came_to_its_end, ended.exits))
    lost = ended.state == "lost" and (state.created_at is not None or bool(ended.exits)) and not done
    # Machines that never came so far as to be told what to do would not the next time either, unless they were taken.
    taken = any(one.reason == "preempted" for one in ended.exits)
    taken = taken or (seen.lease is not None and any(machine.taken_back for machine in seen.lease.machines))
    return allowed and affordable and lost and (state.ordered_at is not None or taken)


def _came_to_its_end(one: Exit) -> bool:
    """Whether a script had done its work; one that saves and exits with 0 because it was asked to has not."""
    return one.exit_code == 0 and one.reason != "preempted" and not one.interrupted


class _Intent(Record):
    attempt: int
    offer: int
    name: str
    request: dict[str, Any]


class _Refusal(Record):
    offer: int
    reason: str


class _Ordered(Record):
    machines: dict[str, str] = Field(default_factory=dict)
    seals: tuple[str | None, ...] = ()


def _apply(state: State, entry: Entry) -> State:
    body, name = entry.body, f"entry {entry.sequence} of the ledger, {shortened(entry.kind, 40)!r},"
    match entry.kind:
        case "intent":
            intent = decode_values(body, _Intent, name)
            if state.lost is not None:
                state = State(after=state.offer)
            return replace(
                state, attempt=intent.attempt, offer=intent.offer, name=intent.name, request=intent.request,
                intended_at=entry.at, sought_since=state.sought_since or entry.at,
            )  # fmt: skip
        case "refused":
            refusal = decode_values(body, _Refusal, name)
            tried = (*state.tried, (refusal.offer, refusal.reason))
            return replace(state, tried=tried, refused_at=entry.at, request=None, offer=None)
        case "created":
            return replace(state, created_at=entry.at)
        case "ordered":
            ordered = decode_values(body, _Ordered, name)
            return replace(state, ordered_at=entry.at, names=ordered.machines, seals=ordered.seals)
        case "lost":
            return replace(state, lost=decode_values(body, Outcome, "how an attempt was lost"))
        case "outcome":
            return replace(state, outcome=decode_values(body, Outcome, "how the script ended"))
        case "release":
            return replace(state, released_at=state.released_at or entry.at)
        case "gone":
            return replace(state, gone_at=entry.at)
    return state


def _ending(state: State, seen: Seen, terms: Terms) -> Outcome | None:
    """How the attempt ended, if it has."""
    exits = [one for one in seen.exits if one is not None]
    if seen.exits and len(exits) == terms.nodes:
        return judge(exits, seen, terms)
    if seen.release_now:
        return _outcome("stopped", "stopped at once; what was committed until then is kept", seen, exits)
    if state.ordered_at is None and seen.stop is not None:
        return _outcome("stopped", f"stopped before the script started: {seen.stop.reason}", seen, exits)
    if state.created_at is None:
        return _not_rented(state, seen, terms)
    return _machines_lost(state, seen, terms, exits) or _out_of_time(seen, terms, exits)


def _not_rented(state: State, seen: Seen, terms: Terms) -> Outcome | None:
    if seen.now >= terms.deadline_at:
        return _outcome("deadline", "the deadline passed before a machine was had", seen, [])
    waited = seen.now - (state.sought_since or seen.now)
    round_over = state.request is None and bool(state.tried) and len(state.tried) % terms.offers == 0
    if round_over and waited + ROUND_S > terms.wait_s:
        why = "; ".join(dict.fromkeys(reason for _, reason in state.tried[-terms.offers :]))
        return _outcome("lost", f"no machine to be had: {why}", seen, [])
    return None


def _machines_lost(state: State, seen: Seen, terms: Terms, exits: list[Exit]) -> Outcome | None:
    since = seen.now - (state.created_at or seen.now)
    if seen.lease is None:
        return (
            _outcome("lost", "the provider does not know the machines", seen, exits)
            if since > VISIBLE_LIMIT_S
            else None
        )
    over = [machine for machine in seen.lease.machines if machine.state in ("ended", "gone")]
    if len(over) > len(exits):
        silent = [machine for machine in over if machine.name.endswith(_silent_suffixes(seen))]
        ended_by = next((machine.ended_by for machine in silent if machine.ended_by), None)
        how = (f", ended by {ended_by}" if ended_by else "") + _by_budget(seen, terms)
        kept = [machine.kept for machine in silent if machine.kept]
        how += f"; what the store may not have taken is on its host in {', '.join(kept)}" if kept else ""
        how += "".join(f"; {one}" for one in seen.unheard)
        word = "a last word" if state.ordered_at else "a word"
        return _outcome("lost", f"{_named(silent)} went away without {word}{how}", seen, exits)
    if state.ordered_at is None and since > HELLO_LIMIT_S:
        silent = [one for one in seen.lease.machines if not any(h and h.name == one.name for h in seen.hellos)]
        why = f"no hello from {_named(silent)} within {HELLO_LIMIT_S:.0f} s, which may have no way to the store"
        return _outcome("lost", why, seen, exits)
    return None


def _over_budget(seen: Seen, terms: Terms) -> bool:
    """Whether the machines came to an end of their own, which the budget had put before the run's deadline."""
    ends_at = seen.lease.deadline_at if seen.lease else 0.0  # in whole seconds
    return 0 < ends_at < terms.deadline_at - 1 and seen.now >= ends_at - 1


def _by_budget(seen: Seen, terms: Terms) -> str:
    return ", as the budget was reached" if _over_budget(seen, terms) else ""


def _named(machines: Iterable[Machine]) -> str:
    return ", ".join(f"{one.name} ({one.identity})" if one.identity else one.name for one in machines)


def _out_of_time(seen: Seen, terms: Terms, exits: list[Exit]) -> Outcome | None:
    failed = [one for one in exits if one.reason != "exited" or one.exit_code != 0]
    if failed and seen.now > min(one.ended_at for one in failed) + PEERS_LIMIT_S:
        return judge(exits, seen, terms)
    if seen.stop is not None and seen.now > seen.stop.at + terms.grace_s + MARGIN_S:
        return _outcome("stopped", f"{seen.stop.reason}; the agent did not confirm it", seen, exits)
    if seen.now > terms.deadline_at + terms.grace_s + MARGIN_S:
        return _outcome("deadline", "the deadline passed and no agent said so", seen, exits)
    return None


def judge(exits: list[Exit], seen: Seen, terms: Terms) -> Outcome:
    """One outcome from every machine's last words; the first failure is the one that counts."""
    failed = [one for one in exits if one.reason != "exited" or one.exit_code != 0]
    if not failed:
        notes = "; ".join(one.message for one in exits if one.message)
        message = "the script ended with exit code 0" + (f"; {notes}" if notes else "")
        # What is not in the store is gone with the machine, so this is no success.
        whole = not any(one.lost for one in exits)
        return _outcome("succeeded" if whole else "lost", message, seen, exits, last=exits[0])
    # A peer's end is only ever the echo of another node's.
    first = min(failed, key=lambda one: (one.reason == "peer", _failed_at(one)))
    states: dict[ExitReason, RunState] = {
        "stopped": "stopped",
        "deadline": "deadline",
        "refused": "refused",
        "fault": "lost",  # ours, not the script's: another lease may do better
        "preempted": "lost",
    }
    state = states.get(first.reason, "failed")
    ended = _outcome(state, _sentence(first, seen, terms), seen, exits, last=first)
    holds = [one.hold for one in exits if one.hold is not None]
    if state != "failed" or not holds:
        return ended
    hold = Hold(since=min(one.since for one in holds), until=max(one.until for one in holds))
    return ended.model_copy(update={"hold": hold})


def _failed_at(one: Exit) -> float:
    return min((rank.at for rank in one.ranks if rank.rank == one.failed_rank), default=one.ended_at)


# What the agent says of a reason that `_sentence` gives in its own words.
_ECHOES = ("stop was requested: ", "the deadline came", "the machine was asked to end by ")


def _sentence(one: Exit, seen: Seen, terms: Terms) -> str:
    who = "the script" if one.failed_rank is None else f"rank {one.failed_rank}"
    if one.reason == "stopped":
        how = seen.stop.reason if seen.stop else one.message or "asked to end"
    elif one.reason == "deadline":
        how = f"ended at its deadline{_by_budget(seen, terms)}"
    elif one.reason == "preempted":
        how = "the cloud took the machine back"
    elif one.reason == "fault":
        how = one.message or "the agent failed"
    elif one.reason == "refused":
        how = f"not started: {one.message}"
    else:
        died = one.signal is not None
        how = f"{who} was killed by {one.signal}" if died else f"{who} ended with exit code {one.exit_code}"
    more = _news(one.message or "") if one.reason not in ("refused", "fault") else ""
    return f"{how}; {more}" if more else how


def _news(message: str) -> str:
    """What an agent says beyond what the reason has said already."""
    return "; ".join(part for part in message.split("; ") if part and not part.startswith(_ECHOES))


def _outcome(state: RunState, message: str, seen: Seen, exits: list[Exit], last: Exit | None = None) -> Outcome:
    return Outcome(
        state=state,
        message=message,
        exit_code=last.exit_code if last else None,
        signal=last.signal if last else None,
        tail=last.tail if last else next((one.tail for one in exits if one.tail), ""),
        failed_rank=last.failed_rank if last else None,
        failed_node=last.node if last and state != "succeeded" else None,
        started_at=min((one.started_at for one in exits if one.started_at), default=None),
        ended_at=max((one.ended_at for one in exits), default=seen.now),
        exits=tuple(exits),
    )


def _nothing_left(state: State, seen: Seen, terms: Terms) -> bool:
    """Whether the provider's answer means that nothing stands, and not that it cannot see it yet."""
    if seen.lease is not None:
        return seen.lease.gone
    return state.intended_at is None or seen.now >= state.intended_at + terms.visible_after_s


def _silent_suffixes(seen: Seen) -> tuple[str, ...]:
    return tuple(f"-n{node}" for node, one in enumerate(seen.exits) if one is None)
