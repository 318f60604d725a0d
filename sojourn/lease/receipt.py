"""Proof of teardown: each thing the run asked for, and when its provider last said "gone".

What a provider has forgotten by the time it is asked is told by the ledger: it was there from
its creation until it was found gone, at most.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from sojourn.decoding import decode_values
from sojourn.plan.planning import Plan
from sojourn.protocol import Outcome
from sojourn.receipts import Attempt, Receipt, Resource, Standing
from sojourn.renting import Lease, Machine, Offer
from sojourn.store.ledger import Entry

NEVER = "never created"
FORGOTTEN = "unknown"  # its provider remembers it no more


@dataclass
class _Rented:
    """What the ledger says about one lease."""

    name: str
    attempt: int
    offer: Offer
    parts: list[dict[str, str]]
    asked_at: float
    created_at: float | None = None
    refused: str | None = None
    released_at: float | None = None
    gone_at: float | None = None
    ended: Outcome | None = None
    names: dict[str, str] = field(default_factory=dict)  # what its machines call themselves, by their ids


def write_receipt(plan: Plan, entries: list[Entry], observed: dict[str, Lease | None]) -> Receipt:
    """The receipt from the ledger and the provider's latest answers, by lease name."""
    rented = _rented(plan, entries)
    lines = {one.name: list(_resources(plan, one, observed.get(one.name))) for one in rented}
    resources = tuple(line for of_lease in lines.values() for line in of_lease)
    still = [one for one in resources if one.gone_at is None]
    stand = [one for one in rented if any(line.gone_at is None for line in lines[one.name])]
    standing: Standing = "closed" if not still else "open" if _unheard(stand, observed) else "closing"
    return Receipt(
        state=standing,
        resources=resources,
        attempts=tuple(_attempt(plan, one, lines[one.name]) for one in rented if one.refused is None),
        cost=round(sum(one.cost for one in resources), 4),
        held_s=round(sum(one.held_s for one in resources), 3),
        held_cost=round(sum(one.cost * one.held_s / one.seconds for one in resources if one.held_s), 4),
    )


def _unheard(standing: list[_Rented], observed: dict[str, Lease | None]) -> bool:
    """Whether something stands that was never released, or that works on as if nobody had asked for its end."""
    leases = [lease for one in standing if (lease := observed.get(one.name))]
    works_on = any(machine.state in ("starting", "running") for lease in leases for machine in lease.machines)
    return works_on or any(one.released_at is None for one in standing)


def _rented(plan: Plan, entries: list[Entry]) -> list[_Rented]:
    """Every lease that was ever asked for, oldest first."""
    found: dict[str, _Rented] = {}
    last: _Rented | None = None
    for entry in entries:
        body = entry.body
        if entry.kind == "intent":
            parts = body["request"].get("parts", [])
            last = _Rented(body["name"], body["attempt"], plan.offers[body["offer"]], parts, entry.at)
            found[last.name] = last
        elif last is not None:
            _note(last, entry)
    return list(found.values())


def _note(lease: _Rented, entry: Entry) -> None:
    match entry.kind:
        case "created":
            lease.created_at = entry.at
        case "refused":
            lease.refused = entry.body["reason"]
            lease.gone_at = entry.at
        case "ordered":
            lease.names = entry.body.get("machines", {})
        case "lost" | "outcome":
            lease.ended = decode_values(entry.body, Outcome, "how an attempt ended")
        case "release":
            lease.released_at = lease.released_at or entry.at
        case "gone":
            lease.gone_at = entry.at


def _resources(plan: Plan, rented: _Rented, lease: Lease | None) -> Iterable[Resource]:
    if rented.refused is not None and lease is None:
        yield Resource(
            kind=rented.offer.machine,
            name=rented.name,
            asked_at=rented.asked_at,
            gone_at=rented.gone_at,
            ended_by=NEVER,
        )
        return
    known = {machine.name: machine for machine in lease.named(rented.names).machines} if lease else {}
    for node in range(plan.launch.nodes):
        name = f"{rented.name}-n{node}"
        yield _machine(rented, name, known.get(name), forgotten=lease is None)
    yield from _parts(rented, lease)


def _machine(rented: _Rented, name: str, machine: Machine | None, forgotten: bool) -> Resource:
    created = machine.created_at if machine else rented.created_at if forgotten else None
    ended = machine.ended_at if machine else rented.released_at
    gone = rented.gone_at if machine is None or machine.state == "gone" else None
    seconds = max(0.0, (ended or gone or created or 0.0) - created) if created else 0.0
    hold = rented.ended.hold if rented.ended else None
    held_s = min(seconds, max(0.0, (created or 0.0) + seconds - hold.since)) if hold else 0.0
    by = machine.ended_by if machine else FORGOTTEN if created and gone else None
    return Resource(
        kind=rented.offer.machine,
        name=name,
        identity=machine.identity if machine else None,
        held_s=round(held_s, 3),
        asked_at=rented.asked_at,
        created_at=created,
        released_at=rented.released_at,
        gone_at=gone,
        ended_by=by or (NEVER if created is None and gone else None),
        seconds=round(seconds, 3),
        cost=round(seconds * rented.offer.price / 3600, 4),
    )


def _parts(rented: _Rented, lease: Lease | None) -> Iterable[Resource]:
    """What belongs to the machines; its price is in theirs."""
    standing = {(part.kind, part.name): part for part in lease.parts if part.state == "standing"} if lease else {}
    machines = lease.machines if lease else ()
    created = min((one.created_at for one in machines if one.created_at), default=rented.created_at)
    for asked in rented.parts:
        part = standing.get((asked["kind"], asked["name"]))
        left = part is not None or any(machine.state != "gone" for machine in machines)
        yield Resource(
            kind=asked["kind"],
            name=asked["name"],
            identity=part.identity if part else None,
            asked_at=rented.asked_at,
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
