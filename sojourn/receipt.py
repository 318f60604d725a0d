"""Proof of teardown: each thing the run asked for, and when its provider last said "gone"."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sojourn.lease import fold
from sojourn.ledger import Entry
from sojourn.planning import Plan
from sojourn.records import Attempt, Lease, Machine, Offer, Outcome, Receipt, Resource, Standing

NEVER = "never created"


@dataclass
class _Rented:
    """What the ledger says about one lease."""

    name: str
    attempt: int
    offer: Offer
    parts: list[dict[str, str]]
    refused: str | None = None
    released_at: float | None = None
    gone_at: float | None = None
    ended: Outcome | None = None


def write_receipt(plan: Plan, entries: list[Entry], observed: dict[str, Lease | None]) -> Receipt:
    """The receipt from the ledger and the provider's latest answers, by lease name."""
    rented = _rented(plan, entries)
    lines = {one.name: list(_resources(plan, one, observed.get(one.name))) for one in rented}
    resources = tuple(line for of_lease in lines.values() for line in of_lease)
    still = [one for one in resources if one.gone_at is None]
    released = fold(entries).released_at is not None
    standing: Standing = "closed" if not still else "closing" if released else "open"
    return Receipt(
        state=standing,
        resources=resources,
        attempts=tuple(_attempt(plan, one, lines[one.name]) for one in rented if one.refused is None),
        cost=round(sum(one.cost for one in resources), 4),
        held_s=round(sum(one.held_s for one in resources), 3),
        held_cost=round(sum(one.cost * one.held_s / one.seconds for one in resources if one.held_s), 4),
    )


def _rented(plan: Plan, entries: list[Entry]) -> list[_Rented]:
    """Every lease that was ever asked for, oldest first."""
    found: dict[str, _Rented] = {}
    last: _Rented | None = None
    for entry in entries:
        body = entry.body
        if entry.kind == "intent":
            parts = body["request"].get("parts", [])
            last = _Rented(body["name"], body["attempt"], plan.offers[body["offer"]], parts)
            found[last.name] = last
        elif last is not None:
            _note(last, entry)
    return list(found.values())


def _note(lease: _Rented, entry: Entry) -> None:
    match entry.kind:
        case "refused":
            lease.refused = entry.body["reason"]
            lease.gone_at = entry.at
        case "lost" | "outcome":
            lease.ended = Outcome.model_validate(entry.body)
        case "release":
            lease.released_at = lease.released_at or entry.at
        case "gone":
            lease.gone_at = entry.at


def _resources(plan: Plan, rented: _Rented, lease: Lease | None) -> Iterable[Resource]:
    if rented.refused is not None and lease is None:
        yield Resource(kind=rented.offer.machine, name=rented.name, gone_at=rented.gone_at, ended_by=NEVER)
        return
    known = {machine.name: machine for machine in lease.machines} if lease else {}
    for node in range(plan.launch.nodes):
        name = f"{rented.name}-n{node}"
        yield _machine(rented, name, known.get(name))
    yield from _parts(rented, lease)


def _machine(rented: _Rented, name: str, machine: Machine | None) -> Resource:
    created = machine.created_at if machine else None
    ended = machine.ended_at if machine else None
    gone = rented.gone_at if machine is None or machine.state == "gone" else None
    seconds = max(0.0, (ended or gone or created or 0.0) - created) if created else 0.0
    hold = rented.ended.hold if rented.ended else None
    held_s = min(seconds, max(0.0, (created or 0.0) + seconds - hold.since)) if hold else 0.0
    return Resource(
        kind=rented.offer.machine,
        name=name,
        identity=machine.identity if machine else None,
        held_s=round(held_s, 3),
        created_at=created,
        released_at=rented.released_at,
        gone_at=gone,
        ended_by=(machine.ended_by if machine else None) or (NEVER if created is None else None),
        seconds=round(seconds, 3),
        cost=round(seconds * rented.offer.price / 3600, 4),
    )


def _parts(rented: _Rented, lease: Lease | None) -> Iterable[Resource]:
    """What belongs to the machines; its price is in theirs."""
    standing = {(part.kind, part.name): part for part in lease.parts if part.state == "standing"} if lease else {}
    machines = lease.machines if lease else ()
    created = min((one.created_at for one in machines if one.created_at), default=None)
    for asked in rented.parts:
        part = standing.get((asked["kind"], asked["name"]))
        left = part is not None or any(machine.state != "gone" for machine in machines)
        yield Resource(
            kind=asked["kind"],
            name=asked["name"],
            identity=part.identity if part else None,
            created_at=part.created_at if part else created,
            released_at=rented.released_at,
            gone_at=None if left else rented.gone_at,
            ended_by=None if left else "release" if created else NEVER,
        )


def _attempt(plan: Plan, rented: _Rented, lines: list[Resource]) -> Attempt:
    return Attempt(
        number=rented.attempt,
        machine=rented.offer.machine,
        place=rented.offer.place,
        market=rented.offer.market,
        nodes=plan.launch.nodes,
        state=rented.ended.state if rented.ended else "open",
        message=rented.ended.message if rented.ended else "",
        seconds=round(sum(line.seconds for line in lines), 3),
        cost=round(sum(line.cost for line in lines), 4),
    )
