"""An account of Amazon's, behind what every cloud's account can do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from sojourn.clouds.account import Asked, Check, Piece, Removal, Rents
from sojourn.clouds.aws import administrator, checkup, policies
from sojourn.clouds.aws.bucket import Bucket
from sojourn.clouds.aws.clients import Clients
from sojourn.clouds.aws.foundation import Names
from sojourn.clouds.aws.secrets import Secrets
from sojourn.clouds.aws.setup.pieces import pieces
from sojourn.clouds.aws.setup.removal import removal


class AwsAccount:
    """The account of this host's credentials; `region` None takes theirs."""

    def __init__(self, region: str | None = None) -> None:
        self.clients = Clients(region)

    def describe(self) -> str:
        """Return its number and region. Raises AccessError without valid credentials."""
        return f"account {self.clients.account}, region {self.clients.region}"

    def examine(self, project: str, try_store: Callable[[str], str]) -> Iterator[Check]:
        """Look at what a newcomer would stumble over."""
        return checkup.examine(self.clients, project, try_store)

    def pieces(self, asked: Asked) -> list[Piece]:
        """Return all that a project needs, in the order in which it is made."""
        return pieces(
            self.clients, asked.project, asked.regions, asked.remotes, asked.keep_days, asked.reaper, asked.store
        )

    def costs(self, asked: Asked) -> str:
        """Return what the pieces cost by themselves."""
        return (
            "The function costs about a cent a month, the rest nothing" if asked.reaper else "None of it costs anything"
        )

    def removal(self, asked: Asked, rents: Rents, results: bool) -> Removal:
        """Return what goes with a project. Raises SpecError while something that a run rented stands."""
        return removal(self.clients, rents, asked.project, asked.regions, results)

    def policies(self, asked: Asked) -> dict[str, Any]:
        """Return names and policies for an administrator; nobody is asked where the account's number is given."""
        names = Names(asked.number or self.clients.account, self.clients.region, asked.project, asked.store)
        return {**policies.printed(names, asked.remotes), "who_sets_up": administrator.policy(names)}

    def secrets(self, project: str) -> Secrets:
        """Return the secrets of a project."""
        return Secrets(self.clients, project)


def open_account(region: str | None) -> AwsAccount:
    """Open the account of this host's credentials."""
    return AwsAccount(region)


def open_bucket(url: str) -> Bucket:
    """Open the bucket that an `s3://bucket/prefix` URL names."""
    return Bucket.shared(url)
