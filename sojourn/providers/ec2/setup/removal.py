"""Takes away what setup made: shown first, and only while nothing of ours stands in the account.

What several projects share goes with the last of them. A bucket that keeps results stays, unless
somebody says that they are not wanted any more.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sojourn.errors import AccessError, SojournError, SpecError, TeardownError
from sojourn.providers.ec2.clients import Clients
from sojourn.providers.ec2.errors import translated
from sojourn.providers.ec2.foundation import Names
from sojourn.providers.ec2.lease import Ec2Provider
from sojourn.providers.ec2.secrets import Secrets
from sojourn.providers.ec2.setup import Piece, pieces
from sojourn.providers.ec2.setup.bucket import Bucket
from sojourn.providers.ec2.setup.roles import SpotRole


@dataclass(frozen=True)
class Removal:
    """What would go, in this order, and what stays and why."""

    going: tuple[Piece, ...]
    staying: tuple[str, ...]

    @property
    def buckets(self) -> tuple[str, ...]:
        """The names of the buckets that go."""
        return tuple(piece.title.removeprefix("bucket ") for piece in self.going if isinstance(piece, Bucket))

    def apply(self) -> None:
        """Remove each; what cannot go keeps no other from going. Raises TeardownError naming it."""
        failed = []
        for piece in self.going:
            try:
                piece.remove()
            except SojournError as error:
                failed.append(error.message)
        if failed:
            raise TeardownError("; ".join(failed), hint="see what is in the way, then: sojourn setup aws --remove")


def removal(provider: Ec2Provider, project: str, regions: Iterable[str] = (), results: bool = False) -> Removal:
    """What goes with a project; with `results` also what the bucket keeps.

    Raises SpecError while machines stand, or anything else that a run rented.
    """
    _check_idle(provider)
    clients = provider.clients
    needed = [one for one in pieces(clients, project, regions, reaper=True) if not isinstance(one, SpotRole)]
    standing = [one for one in reversed(needed) if one.standing() is not None]
    others = projects(clients) - {project}
    going, staying = [], []
    for piece in standing:
        own = piece.title.endswith(f" {Names('', '', project).machine_role}")
        if others and not own:
            staying.append(f"{piece.title}: {', '.join(sorted(others))} needs it too")
        elif isinstance(piece, Bucket) and not results and piece.keeps():
            staying.append(f"{piece.title}: it keeps results; to delete them too: --delete-results")
        else:
            going.append(piece)
    closed = [
        f"{region}: your organization closed it, so nothing was looked for there" for region in sorted(provider.closed)
    ]
    return Removal(tuple(going), (*staying, *closed, *_secrets(clients, project)))


def _secrets(clients: Clients, project: str) -> list[str]:
    """The user's own values, which setup did not make; nothing about them where they may not be listed."""
    try:
        names = [one.name for one in Secrets(clients, project).list()]
    except AccessError:
        return []
    return [f"secret {name}: yours; to remove it too: sojourn secret remove {name}" for name in names]


def _check_idle(provider: Ec2Provider) -> None:
    """Raises SpecError naming what of ours, whichever project's, still stands where the provider looks."""
    standing = [one.name for one in provider.leases()]
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
