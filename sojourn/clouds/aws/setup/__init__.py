"""Makes what must stand in the account: looks, says what differs, makes that and nothing else.

Each piece says in the same words what it should be and what it is, so that what is shown is
what is compared, and a second time changes nothing. None of the pieces costs anything by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from sojourn.clouds.aws import policies
from sojourn.clouds.aws.clients import Clients
from sojourn.clouds.aws.foundation import REAPER, SCHEDULER_ROLE, Names
from sojourn.clouds.aws.setup.bucket import Bucket
from sojourn.clouds.aws.setup.network import MachineGroup
from sojourn.clouds.aws.setup.reaper import Reaper
from sojourn.clouds.aws.setup.roles import Profile, Role, SpotRole
from sojourn.clouds.aws.setup.timers import ScheduleGroup

State = dict[str, Any]


class Piece(Protocol):
    """One thing in the account."""

    title: str

    def wanted(self) -> State:
        """What it should be, by aspect."""
        ...

    def standing(self) -> State | None:
        """What it is, in the same words; None while it does not exist."""
        ...

    def make(self, has: State | None) -> None:
        """Make it what it should be, given what it is; returns when it can be used."""
        ...

    def remove(self) -> None:
        """Take it away; it stands, and nothing of ours runs any more."""
        ...


@dataclass(frozen=True)
class Change:
    """A piece that is missing or differs, and in what: the aspect, what it has, what it should have."""

    piece: Piece
    has: State | None
    fields: tuple[tuple[str, Any, Any], ...]

    @property
    def new(self) -> bool:
        """Whether nothing of it exists."""
        return self.has is None

    def apply(self) -> None:
        """Make the piece what it should be."""
        self.piece.make(self.has)


def pieces(
    clients: Clients,
    project: str,
    regions: Iterable[str] = (),
    remotes: Iterable[str] = (),
    days: int | None = None,
    reaper: bool = False,
    store: str = "",
) -> list[Piece]:
    """All that a project needs, in the order in which it is made; `regions` are those beside the clients' own.

    `days` is how long the store keeps a run, None for what it says already or else the usual.
    `reaper` adds the one in the cloud, which nothing else needs. `store` is a bucket of the user's own to run from.
    """
    names = Names(clients.account, clients.region, project, store)
    beside = [region for region in dict.fromkeys(regions) if region != names.region]
    machine, scheduler = policies.machine(names, remotes), policies.scheduler(names)
    needed: list[Piece] = [
        Bucket(clients, names, days),
        *(MachineGroup(clients, region) for region in (names.region, *beside)),
        Role(clients, names.machine_role, policies.trust(names, "ec2"), machine),
        Profile(clients, names),
        Role(clients, SCHEDULER_ROLE, policies.trust(names, "scheduler"), scheduler),
        *(ScheduleGroup(clients, region) for region in (names.region, *beside)),
        SpotRole(clients),
    ]
    if reaper:
        needed.append(Role(clients, REAPER, policies.trust(names, "lambda"), policies.reaper(names)))
        needed += [Reaper(clients, names, region) for region in (names.region, *beside)]
    return needed


def differences(wanted: Iterable[Piece]) -> Iterator[Change]:
    """The pieces that are not what they should be."""
    for piece in wanted:
        has, should = piece.standing(), piece.wanted()
        aspects = dict.fromkeys([*should, *(has or {})])
        fields = [(one, (has or {}).get(one), should.get(one)) for one in aspects]
        differing = tuple(field for field in fields if field[1] != field[2])
        if has is None or differing:
            yield Change(piece, has, differing)
