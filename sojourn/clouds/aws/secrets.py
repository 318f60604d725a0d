"""The user's own secrets, kept encrypted in SSM's parameters, where machines of the runs that name them read them.

Their values pass through here once, from the user to Amazon; nothing of ours keeps or shows them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import partial
from typing import NamedTuple

from sojourn.clouds.account import KeptSecret
from sojourn.clouds.aws.clients import Clients
from sojourn.clouds.aws.errors import translated
from sojourn.clouds.aws.foundation import Names, unless_absent
from sojourn.errors import SpecError, nearest
from sojourn.names import is_place, mint_place

LIMIT = 4096  # bytes; above it SSM asks money for every parameter
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class _Parameter(NamedTuple):
    """One of SSM's parameters that keeps a secret."""

    path: str
    name: str
    place: str
    changed_at: float


class Secrets:
    """The secrets of one project, in the clients' region.

    Each is kept under a path that nobody can guess. A run's machines are told those of the secrets that it named,
    and may list none.
    """

    def __init__(self, clients: Clients, project: str) -> None:
        self._ssm = clients.client("ssm")
        self._names = Names(clients.account, clients.region, project)

    def set(self, name: str, value: str) -> None:
        """Keep a value, in place of an earlier one. Raises SpecError for what cannot be an environment variable."""
        if not _NAME.fullmatch(name):
            raise SpecError(
                f"secret: {name!r} cannot be the name of an environment variable",
                hint="use letters, digits and underscores, like WANDB_API_KEY",
            )
        if not value:
            raise SpecError(f"secret {name}: the value is empty", hint=f"to remove it: sojourn secret remove {name}")
        if len(value.encode()) > LIMIT:
            raise SpecError(
                f"secret {name}: {len(value.encode()):,} bytes, and {LIMIT:,} is the most",
                hint="keep a key, not a file",
            )
        found = self._found().get(name, ())
        # Runs that wait for their machines were told the path that stands.
        path = next((one.path for one in found if one.place), None) or self._names.secret(name, mint_place())
        with translated(f"keep secret {name}"):
            self._ssm.put_parameter(Name=path, Value=value, Type="SecureString", Overwrite=True)
        self._delete(name, (one for one in found if one.path != path))

    def list(self) -> list[KeptSecret]:
        """The secrets that are there, by name."""
        newest = [found[0] for _, found in sorted(self._found().items())]
        return [KeptSecret(name=one.name, changed_at=one.changed_at, earlier=not one.place) for one in newest]

    def paths(self, names: Iterable[str]) -> dict[str, str]:
        """Where each of these secrets is kept. Raises SpecError naming the first that a machine could not be given."""
        found, paths = self._found(), {}
        for name in names:
            if name not in found:
                raise SpecError(
                    f"secrets: the account keeps no {name!r} for {self._names.project}, {nearest(name, found)}",
                    hint=f"keep it: sojourn secret set {name}",
                )
            newest = found[name][0]
            if not newest.place:
                raise SpecError(
                    f"secrets: an earlier version kept {name!r} where each machine of {self._names.project} could "
                    "read it, and none may any more",
                    hint=f"keep it anew: sojourn secret set {name}",
                )
            paths[name] = newest.path
        return paths

    def remove(self, name: str) -> None:
        """Forget a value. Raises SpecError when there is none."""
        found = self._found()
        if name not in found:
            raise SpecError(f"secret: there is no {name!r}, {nearest(name, found)}", hint="sojourn secret list")
        self._delete(name, found[name])

    def _found(self) -> dict[str, tuple[_Parameter, ...]]:
        """All parameters by the secret's name, those in a place first and the newest of them."""
        under = {"Key": "Path", "Option": "Recursive", "Values": [self._names.secrets]}
        with translated("list secrets"):
            pages = self._ssm.get_paginator("describe_parameters").paginate(ParameterFilters=[under])
            rows = [one for page in pages for one in page["Parameters"]]
        found: dict[str, tuple[_Parameter, ...]] = {}
        for row in rows:
            *above, name = row["Name"].removeprefix(f"{self._names.secrets}/").split("/")
            if _NAME.fullmatch(name) and (not above or (len(above) == 1 and is_place(above[0]))):
                one = _Parameter(row["Name"], name, "".join(above), row["LastModifiedDate"].timestamp())
                found[name] = *found.get(name, ()), one
        return {name: tuple(sorted(each, key=_best)) for name, each in found.items()}

    def _delete(self, name: str, which: Iterable[_Parameter]) -> None:
        for one in which:
            unless_absent(f"remove secret {name}", partial(self._ssm.delete_parameter, Name=one.path))


def _best(one: _Parameter) -> tuple[bool, float]:
    return not one.place, -one.changed_at
