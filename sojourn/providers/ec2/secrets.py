"""The user's own secrets, kept encrypted in SSM's parameters, where a project's machines read them.

Their values pass through here once, from the user to Amazon; nothing of ours keeps or shows them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from sojourn.errors import SpecError, nearest
from sojourn.providers.ec2.clients import Clients
from sojourn.providers.ec2.errors import translated
from sojourn.providers.ec2.foundation import Names, unless_absent
from sojourn.records import Record

LIMIT = 4096  # bytes; above it SSM asks money for every parameter
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Kept(Record):
    """A secret that is there; its value is Amazon's alone."""

    name: str
    changed_at: float


class Secrets:
    """The secrets of one project, in the clients' region."""

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
        with translated(f"keep secret {name}"):
            self._ssm.put_parameter(Name=self._names.secret(name), Value=value, Type="SecureString", Overwrite=True)

    def list(self) -> list[Kept]:
        """The secrets that are there, by name."""
        under = {"Key": "Path", "Option": "OneLevel", "Values": [self._names.secret("").rstrip("/")]}
        with translated("list secrets"):
            pages = self._ssm.get_paginator("describe_parameters").paginate(ParameterFilters=[under])
            found = [one for page in pages for one in page["Parameters"]]
        kept = [
            Kept(name=one["Name"].rpartition("/")[2], changed_at=one["LastModifiedDate"].timestamp()) for one in found
        ]
        return sorted(kept, key=lambda one: one.name)

    def remove(self, name: str) -> None:
        """Forget a value. Raises SpecError when there is none."""
        doing = f"remove secret {name}"
        if unless_absent(doing, lambda: self._ssm.delete_parameter(Name=self._names.secret(name))) is None:
            known = [one.name for one in self.list()]
            raise SpecError(f"secret: there is no {name!r}, {nearest(name, known)}", hint="sojourn secret list")


def check_kept(clients: Clients, project: str, names: Iterable[str]) -> None:
    """Raise SpecError naming the first of these secrets that the project does not have."""
    kept = [one.name for one in Secrets(clients, project).list()]
    for name in names:
        if name not in kept:
            raise SpecError(
                f"secrets: the account keeps no {name!r} for {project}, {nearest(name, kept)}",
                hint=f"keep it: sojourn secret set {name}",
            )
