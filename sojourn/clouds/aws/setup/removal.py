"""Takes away what setup made: shown first, and only while nothing of ours stands in the account.

What several projects share goes with the last of them. A bucket that keeps results stays, unless
somebody says that they are not wanted any more.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from sojourn.clouds.account import Removal, Rents
from sojourn.clouds.aws.clients import Clients
from sojourn.clouds.aws.errors import translated
from sojourn.clouds.aws.foundation import GROUP, SCHEDULE_GROUP, Names, find_schedule_group
from sojourn.clouds.aws.secrets import Secrets
from sojourn.clouds.aws.setup.bucket import Bucket
from sojourn.clouds.aws.setup.pieces import pieces
from sojourn.clouds.aws.setup.roles import SpotRole
from sojourn.errors import AccessError, SpecError
from sojourn.waiting import SystemClock


def removal(
    clients: Clients, rents: Rents, project: str, regions: Iterable[str] = (), results: bool = False
) -> Removal:
    """What goes with a project; with `results` also what the bucket keeps.

    Raises SpecError while machines stand, or anything else that a run rented.
    """
    _check_idle(rents)
    named = list(regions)
    needed = pieces(clients, project, named, reaper=True)
    standing = [one for one in reversed(needed) if one.standing() is not None]
    others = projects(clients) - {project}
    going, staying = [], []
    for piece in standing:
        own = piece.title.endswith(f" {Names('', '', project).machine_role}")
        if isinstance(piece, SpotRole):
            staying.append(f"{piece.title}: Amazon's own, which whoever rents spot machines here needs")
        elif others and not own:
            staying.append(f"{piece.title}: {', '.join(sorted(others))} needs it too")
        elif isinstance(piece, Bucket) and not results and piece.keeps():
            staying.append(f"{piece.title}: it keeps results; to delete them too: --delete-results")
        else:
            going.append(piece)
    closed = [
        f"{region}: your organization closed it, so nothing was looked for there" for region in sorted(rents.closed)
    ]
    beside = _elsewhere(clients, rents, [clients.region, *named])
    stores = {f"s3://{one.title.removeprefix('bucket ')}": one for one in needed if isinstance(one, Bucket)}
    stays = (*staying, *closed, *beside, *_secrets(clients, project))
    return Removal(tuple(going), stays, stores, again="sojourn setup aws --remove")


def _elsewhere(clients: Clients, rents: Rents, named: list[str]) -> list[str]:
    """What setup made in regions that nobody names now."""
    regions = [one for one in rents.regions if one not in {*named, *rents.closed}]
    for region in regions:  # threads may share clients, but not make them
        clients.client("ec2", region)
        clients.client("scheduler", region)
    found = SystemClock().together([partial(_left_in, clients, region) for region in regions])
    again = " ".join(f"--region {one}" for one in named)
    return [
        f"{' and '.join(left)} in {region}: to remove it too: {again} --region {region}"
        for region, left in zip(regions, found, strict=True)
        if left
    ]


def _left_in(clients: Clients, region: str) -> list[str]:
    by_name = [{"Name": "group-name", "Values": [GROUP]}]
    try:
        with translated(f"look for security group {GROUP}"):
            groups = clients.client("ec2", region).describe_security_groups(Filters=by_name)["SecurityGroups"]
        timers = find_schedule_group(clients, region)
    except AccessError:
        return []
    return [*([f"security group {GROUP}"] if groups else []), *([f"schedule group {SCHEDULE_GROUP}"] if timers else [])]


def _secrets(clients: Clients, project: str) -> list[str]:
    """The user's own values, which setup did not make; nothing about them where they may not be listed."""
    try:
        names = [one.name for one in Secrets(clients, project).list()]
    except AccessError:
        return []
    return [f"secret {name}: yours; to remove it too: sojourn secret remove {name}" for name in names]


def _check_idle(rents: Rents) -> None:
    """Raises SpecError naming what of ours, whichever project's, still stands where the provider looks."""
    standing = [one.name for one in rents.leases()]
    if standing:
        raise SpecError(
            f"aws: {', '.join(standing)} still {'stands' if len(standing) == 1 else 'stand'}, and needs what would go",
            hint="end it first: sojourn stop RUN, or sojourn reap",
        )


def projects(clients: Clients) -> set[str]:
    """The projects that have a role for their machines in the account."""
    start = Names("", "", "").machine_role
    with translated("list the roles"):
        pages = clients.client("iam").get_paginator("list_roles").paginate()
        names = [role["RoleName"] for page in pages for role in page["Roles"]]
    return {name.removeprefix(start) for name in names if name.startswith(start)}
