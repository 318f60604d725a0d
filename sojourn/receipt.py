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
            resources += _machines(plan, entry, observed.get(entry.body["name"]), state)
    still = [one for one in resources if one.gone_at is None]
    standing: Standing = "closed" if not still else "closing" if state.released_at is not None else "open"
    return Receipt(state=standing, resources=tuple(resources), cost=round(sum(one.cost for one in resources), 4))


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
