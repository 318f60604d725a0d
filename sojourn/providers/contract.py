"""Where machines come from: one module per thing rented, all with the same six verbs.

A provider never retries, waits, counts or ranks. Its errors are the decisions of
`sojourn.errors`; no vendor's exception leaves it. Importing one imports no SDK.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from sojourn.renting import Boot, Capability, Lease, Lookalike, Need, Offer, Offers

Request = dict[str, Any]


class Provider(Protocol):
    """The contract; `tests/contract/` holds every implementation to it."""

    name: str

    def capability(self) -> Capability:
        """Which timers end the billing of what is rented here, and what the user must be told."""
        ...

    def store(self, project: str) -> str | None:
        """URL of the place where a project's runs are kept unless told otherwise; None for this user's own."""
        ...

    def kept(self) -> list[str]:
        """URLs of the stores that it keeps runs in by itself, of any project, where they exist."""
        ...

    def offers(self, need: Need) -> Offers:
        """What can be rented that fits, cheapest first, never none.

        Raises SpecError for what is unknown here or never fits, QuotaError when an account's limit is in the way.
        """
        ...

    def request(self, boot: Boot, offer: Offer) -> Request:
        """The complete create call as JSON: pure, the same in a replay, no secret in it."""
        ...

    def create(self, request: Request) -> None:
        """Rent all machines of the request, or none; returns at once.

        The same request again creates nothing new, also when its machines have ended
        or were released before they came to be. Raises SpecError for another request
        under a name that was used.
        """
        ...

    def observe(self, name: str) -> Lease | None:
        """The lease of this name as it stands now; None when no machine of it was ever made."""
        ...

    def release(self, name: str) -> bool:
        """End the lease now; True when nothing of it is left, False when it must be asked again.

        Takes two seconds at most, and never raises for what is not there.
        """
        ...

    def release_all(self, names: Sequence[str]) -> list[bool | Exception]:
        """The same for many leases, side by side: for each its answer, or what kept it from one."""
        ...

    def leases(self) -> list[Lease]:
        """Everything that carries one of our names, also half-made things, never a stranger's."""
        ...

    def now(self) -> float | None:
        """The time by its own clock, which ends machines at their deadlines; None while it has told of none."""
        ...

    def lookalikes(self) -> list[Lookalike]:
        """What carries the tags of a lease without being of it: to be told, and left alone."""
        ...
