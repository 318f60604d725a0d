"""The life of a lease as a pure state machine: no clock, no network, no Prefect.

`fold` reads the ledger into a state, `step` says what to do next given what was seen.
Because the state comes from the ledger alone, whoever takes a run over continues where
its former owner stopped, and the simulator drives the very same rules.

    nothing -> intent -> created -> ordered -> outcome -> released -> gone
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from sojourn.ledger import Entry
from sojourn.records import Exit, ExitReason, Hello, Lease, Outcome, RunState, Stop

HELLO_LIMIT_S = 900.0  # a machine that says nothing for this long after its creation is lost
VISIBLE_LIMIT_S = 120.0  # a new machine may be invisible to its own cloud for a while
PEERS_LIMIT_S = 30.0  # after one node failed the others have this long to say how they ended
MARGIN_S = 15.0  # agents and supervisors end by deadline + grace; only then do we stop believing in them


@dataclass(frozen=True)
class State:
    """What the ledger says about the newest lease of a run."""

    attempt: int = 1
    tried: tuple[tuple[int, str], ...] = ()
    offer: int | None = None
    name: str | None = None
    request: dict[str, Any] | None = None
    intended_at: float | None = None
    created_at: float | None = None
    ordered_at: float | None = None
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


@dataclass(frozen=True)
class Seen:
    """What could be observed at `now`. The provider was asked before the mailbox was read."""

    now: float
    lease: Lease | None = None
    hellos: tuple[Hello | None, ...] = ()
    exits: tuple[Exit | None, ...] = ()
    stop: Stop | None = None
    release_now: bool = False


@dataclass(frozen=True)
class Intend:
    """Write the intention to take this offer."""

    offer: int


@dataclass(frozen=True)
class Create:
    """Send the intended request, for the first time or again."""


@dataclass(frozen=True)
class PostOrder:
    """All machines said hello: tell them what to do."""


@dataclass(frozen=True)
class Conclude:
    """The attempt is over."""

    outcome: Outcome


@dataclass(frozen=True)
class Release:
    """Give the machines back."""


@dataclass(frozen=True)
class Gone:
    """The provider says that nothing is left."""


Action = Intend | Create | PostOrder | Conclude | Release | Gone


def fold(entries: Iterable[Entry]) -> State:
    """The state that a ledger describes."""
    state = State()
    for entry in entries:
        state = _apply(state, entry)
    return state


def step(state: State, seen: Seen, terms: Terms) -> Action | None:
    """The one thing to do now, or None to look again later."""
    if state.gone_at is not None:
        return None
    if state.released_at is not None:
        # An answer of "nothing there" from before the first create counts: nothing was rented.
        return Gone() if _all(seen.lease, "gone") else Release()
    if state.outcome is not None:
        return Release()
    ended = _ending(state, seen, terms)
    if ended is not None:
        return Conclude(ended)
    if state.created_at is None:
        return Create() if state.request is not None else Intend(len(state.tried))
    if state.ordered_at is None and seen.hellos and all(seen.hellos):
        return PostOrder()
    return None


def _apply(state: State, entry: Entry) -> State:
    body = entry.body
    match entry.kind:
        case "intent":
            return replace(
                state, attempt=body["attempt"], offer=body["offer"], name=body["name"], request=body["request"],
                intended_at=entry.at,
            )  # fmt: skip
        case "refused":
            return replace(state, tried=(*state.tried, (body["offer"], body["reason"])), request=None, offer=None)
        case "created":
            return replace(state, created_at=entry.at)
        case "ordered":
            return replace(state, ordered_at=entry.at)
        case "outcome":
            return replace(state, outcome=Outcome.model_validate(body))
        case "release":
            return replace(state, released_at=state.released_at or entry.at)
        case "gone":
            return replace(state, gone_at=entry.at)
    return state


def _ending(state: State, seen: Seen, terms: Terms) -> Outcome | None:
    """How the attempt ended, if it has."""
    exits = [one for one in seen.exits if one is not None]
    if seen.exits and len(exits) == terms.nodes:
        return judge(exits, seen)
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
    if state.request is None and len(state.tried) >= terms.offers:
        why = "; ".join(reason for _, reason in state.tried)
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
    over = [machine.name for machine in seen.lease.machines if machine.state in ("ended", "gone")]
    if len(over) > len(exits):
        silent = [name for name in over if name.endswith(_silent_suffixes(seen))]
        ended_by = next((m.ended_by for m in seen.lease.machines if m.name in silent and m.ended_by), None)
        how = f", ended by {ended_by}" if ended_by else ""
        return _outcome("lost", f"{', '.join(silent)} went away without a last word{how}", seen, exits)
    if state.ordered_at is None and since > HELLO_LIMIT_S:
        return _outcome("lost", f"no hello from every machine within {HELLO_LIMIT_S:.0f} s", seen, exits)
    return None


def _out_of_time(seen: Seen, terms: Terms, exits: list[Exit]) -> Outcome | None:
    failed = [one for one in exits if one.reason != "exited" or one.exit_code != 0]
    if failed and seen.now > min(one.ended_at for one in failed) + PEERS_LIMIT_S:
        return judge(exits, seen)
    if seen.stop is not None and seen.now > seen.stop.at + terms.grace_s + MARGIN_S:
        return _outcome("stopped", f"{seen.stop.reason}; the agent did not confirm it", seen, exits)
    if seen.now > terms.deadline_at + terms.grace_s + MARGIN_S:
        return _outcome("deadline", "the deadline passed and no agent said so", seen, exits)
    return None


def judge(exits: list[Exit], seen: Seen) -> Outcome:
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
    }
    state = states.get(first.reason, "failed")
    return _outcome(state, _sentence(first, seen), seen, exits, last=first)


def _failed_at(one: Exit) -> float:
    return min((rank.at for rank in one.ranks if rank.rank == one.failed_rank), default=one.ended_at)


def _sentence(one: Exit, seen: Seen) -> str:
    who = "the script" if one.failed_rank is None else f"rank {one.failed_rank}"
    if one.reason == "stopped":
        how = f"stopped: {seen.stop.reason}" if seen.stop else "stopped"
    elif one.reason == "deadline":
        how = "ended at its deadline"
    elif one.reason == "fault":
        how = one.message or "the agent failed"
    elif one.reason == "refused":
        how = f"not started: {one.message}"
    else:
        died = one.signal is not None
        how = f"{who} was killed by {one.signal}" if died else f"{who} ended with exit code {one.exit_code}"
    return f"{how}; {one.message}" if one.message and one.reason not in ("refused", "fault") else how


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


def _all(lease: Lease | None, state: str) -> bool:
    return lease is None or all(machine.state == state for machine in lease.machines)


def _silent_suffixes(seen: Seen) -> tuple[str, ...]:
    return tuple(f"-n{node}" for node, one in enumerate(seen.exits) if one is None)
