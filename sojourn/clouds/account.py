"""What every cloud's account can do for us, whatever is rented there.

An account says what stands in it and what should, makes that and takes it away again, and keeps the
user's secrets and the runs. What is rented is for the providers of the cloud, which share one account.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import obstore.store
from pydantic import Field

from sojourn.errors import GoneError, SojournError, TeardownError
from sojourn.records import Record
from sojourn.renting import Lease

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


def differences(wanted: Iterable[Piece]) -> Iterator[Change]:
    """The pieces that are not what they should be."""
    for piece in wanted:
        has, should = piece.standing(), piece.wanted()
        aspects = dict.fromkeys([*should, *(has or {})])
        fields = [(one, (has or {}).get(one), should.get(one)) for one in aspects]
        differing = tuple(field for field in fields if field[1] != field[2])
        if has is None or differing:
            yield Change(piece, has, differing)


class Check(Record):
    """One thing looked at."""

    what: str
    state: Literal["good", "weak", "missing"]
    found: str
    mend: str | None = None


@dataclass(frozen=True)
class Asked:
    """What `sojourn setup` is asked for.

    `regions` are those beside the account's own; `remotes` the project's DVC remotes in this cloud; `keep_days` how
    long the store keeps a run, None for what it says already or else the usual; `reaper` a function of the cloud's
    that ends what outlived its deadline; `store` the URL of a store of the user's own; `number` the account's, for
    policies that are printed without asking the cloud.
    """

    project: str
    regions: tuple[str, ...] = ()
    remotes: tuple[str, ...] = ()
    keep_days: int | None = None
    reaper: bool = False
    store: str = ""
    number: str | None = None


@dataclass(frozen=True)
class Removal:
    """What would go, in this order, and what stays and why; `stores` are the project's by URL, standing or not."""

    going: tuple[Piece, ...]
    staying: tuple[str, ...]
    stores: Mapping[str, Piece] = field(default_factory=dict)
    again: str = "sojourn setup"

    def missing(self) -> tuple[str, ...]:
        """Return the URLs of the stores that do not stand now, whoever took them away."""
        return tuple(url for url, piece in self.stores.items() if piece.standing() is None)

    def apply(self) -> None:
        """Remove each; what cannot go keeps no other from going. Raises TeardownError naming it."""
        failed = []
        for piece in self.going:
            try:
                piece.remove()
            except SojournError as error:
                failed.append(error.message)
        if failed:
            raise TeardownError("; ".join(failed), hint=f"see what is in the way, then: {self.again}")


class Rents(Protocol):
    """A provider of the cloud, as far as its account must know it."""

    closed: set[str]  # regions that the account's organization lets nobody use, as far as was seen

    @property
    def regions(self) -> list[str]:
        """Where it looks for what it rented."""
        ...

    def leases(self) -> list[Lease]:
        """Return everything of ours that stands there."""
        ...


class KeptSecret(Record):
    """A secret that is there; its value is the cloud's alone."""

    name: str
    changed_at: float
    earlier: bool = Field(
        default=False, description="Kept by an earlier version, under a name that each machine of the project could say"
    )


class Secrets(Protocol):
    """The user's own values, kept by the cloud."""

    def set(self, name: str, value: str) -> None:
        """Keep a value, in place of an earlier one. Raises SpecError for what cannot be an environment variable."""
        ...

    def list(self) -> list[KeptSecret]:
        """Return those that are there, by name."""
        ...

    def remove(self, name: str) -> None:
        """Forget a value. Raises SpecError when there is none."""
        ...


class Bucket(Protocol):
    """A bucket that keeps runs: what `sojourn.store.storage` cannot ask obstore."""

    @property
    def region(self) -> str:
        """Where it lies. Raises SpecError, AccessError or TransientError when it cannot be used."""
        ...

    def open(self, limit_s: float, retries: int) -> obstore.store.ObjectStore:
        """Open the store below the prefix; each request ends within `limit_s`."""
        ...

    def now(self) -> float | None:
        """Return the time by the clock of who keeps the bucket, if it was told."""
        ...

    def forgets(self, key: str) -> float | None:
        """Return when a rule of the bucket removes the object; None when none does."""
        ...

    def copy(self, source: str, key: str) -> None:
        """Have an object under another key too. Raises FileNotFoundError."""
        ...

    def erase(self, below: str, which: Callable[[str], bool] = ..., limit_s: float = ...) -> None:
        """Remove what is kept below a prefix of what was overwritten or deleted."""
        ...

    def decision(self, error: Exception, doing: str) -> SojournError:
        """Return what an error of obstore's means for us."""
        ...

    def missing(self) -> GoneError:
        """Return the error that says that there is no such bucket."""
        ...


class Account(Protocol):
    """One account of a cloud, with the credentials of this host."""

    def describe(self) -> str:
        """Return which account and region this is, in a few words. Raises AccessError without valid credentials."""
        ...

    def examine(self, project: str, try_store: Callable[[str], str]) -> Iterator[Check]:
        """Look at credentials, pieces and permissions in the order in which a newcomer would stumble over them.

        `try_store` writes into the store of a URL and says that it works, or raises SojournError.
        """
        ...

    def pieces(self, asked: Asked) -> list[Piece]:
        """Return all that must stand, in the order in which it is made."""
        ...

    def costs(self, asked: Asked) -> str:
        """Return what the pieces cost by themselves, in a sentence without its end."""
        ...

    def removal(self, asked: Asked, rents: Rents, results: bool) -> Removal:
        """Return what goes with a project, with `results` also what its store keeps.

        Raises SpecError while anything stands of what `rents` rented.
        """
        ...

    def policies(self, asked: Asked) -> dict[str, Any]:
        """Return names and policies for an administrator, without asking the cloud more than it must."""
        ...

    def secrets(self, project: str) -> Secrets:
        """Return the secrets of a project."""
        ...
