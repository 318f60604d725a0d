"""All that must stand in the account for a project, piece by piece. None of it costs anything by itself."""

from __future__ import annotations

from collections.abc import Iterable

from sojourn.clouds.account import Piece
from sojourn.clouds.aws import policies
from sojourn.clouds.aws.clients import Clients
from sojourn.clouds.aws.foundation import REAPER, SCHEDULER_ROLE, Names
from sojourn.clouds.aws.setup.bucket import Bucket
from sojourn.clouds.aws.setup.network import MachineGroup
from sojourn.clouds.aws.setup.reaper import Reaper
from sojourn.clouds.aws.setup.roles import Profile, Role, SpotRole
from sojourn.clouds.aws.setup.timers import ScheduleGroup


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
