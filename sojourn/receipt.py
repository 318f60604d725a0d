"""Proof of teardown: each thing the run asked for, and when its provider last said "gone"."""

from __future__ import annotations

from sojourn.lease import State, fold
from sojourn.ledger import Entry
from sojourn.planning import Plan
from sojourn.records import Lease, Receipt, Resource, Standing


def write_receipt(plan: Plan, entries: list[Entry], observed: dict[str, Lease | None]) -> Receipt:
    """The receipt from the ledger and the provider's latest answers, by lease name."""
    state = fold(entries)
    resources: list[Resource] = []
    for entry in entries:
        if entry.kind == "intent":
            lease = observed.get(entry.body["name"])
            resources += [*_machines(plan, entry, lease, state), *_parts(entry, lease, state)]
    still = [one for one in resources if one.gone_at is None]
    standing: Standing = "closed" if not still else "closing" if state.released_at is not None else "open"
    return Receipt(state=standing, resources=tuple(resources), cost=round(sum(one.cost for one in resources), 4))


def _parts(intent: Entry, lease: Lease | None, state: State) -> list[Resource]:
    """What belongs to the machines; its price is in theirs."""
    standing = {(part.kind, part.name): part for part in lease.parts if part.state == "standing"} if lease else {}
    machines = lease.machines if lease else ()
    created = min((one.created_at for one in machines if one.created_at), default=None)
    lines = []
    for asked in intent.body["request"].get("parts", []):
        part = standing.get((asked["kind"], asked["name"]))
        left = part is not None or any(machine.state != "gone" for machine in machines)
        lines.append(
            Resource(
                kind=asked["kind"],
                name=asked["name"],
                identity=part.identity if part else None,
                created_at=part.created_at if part else created,
                released_at=state.released_at,
                gone_at=None if left else state.gone_at,
                ended_by=None if left else "release" if created else "never created",
            )
        )
    return lines


def _machines(plan: Plan, intent: Entry, lease: Lease | None, state: State) -> list[Resource]:
    name, offer = intent.body["name"], plan.offers[intent.body["offer"]]
    known = {machine.name: machine for machine in lease.machines} if lease else {}
    lines = []
    for node in range(plan.launch.nodes):
        machine = known.get(f"{name}-n{node}")
        created = machine.created_at if machine else None
        ended = machine.ended_at if machine else None
        gone = state.gone_at if machine is None or machine.state == "gone" else None
        seconds = max(0.0, (ended or gone or created or 0.0) - created) if created else 0.0
        lines.append(
            Resource(
                kind=offer.machine,
                name=f"{name}-n{node}",
                identity=machine.identity if machine else None,
                created_at=created,
                released_at=state.released_at,
                gone_at=gone,
                ended_by=(machine.ended_by if machine else None) or ("never created" if created is None else None),
                seconds=round(seconds, 3),
                cost=round(seconds * offer.price / 3600, 4),
            )
        )
    return lines
