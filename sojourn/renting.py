"""What a provider is asked for, what it offers, and what it rents: all that the author of a provider reads."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count
from typing import Any, Literal

from pydantic import Field

from sojourn.records import Network, Record

# --- what is rented ---------------------------------------------------------------------


Market = Literal["on-demand", "spot"]


class GpuNeed(Record):
    """The GPUs that a machine must have."""

    name: str | None = Field(default=None, description="The model, as people say it; any if absent")
    count: int = 1
    memory: int | None = Field(default=None, description="Of each GPU, at least")


class Need(Record):
    """What the machines of a run must be; what is absent may be anything."""

    machine: str | None = Field(default=None, description="A type of the provider, or a size like `l+t4`")
    gpu: GpuNeed | None = None
    cpus: int | None = Field(default=None, description="At least")
    memory: int | None = Field(default=None, description="At least")
    disk: int | None = None
    boot_image: str | None = None
    market: Market | None = None
    regions: tuple[str, ...] = ()
    network: Network = "internet"
    nodes: int = 1
    cluster: bool = Field(default=False, description="Several machines stand near each other")
    until: float | None = Field(default=None, description="When they are gone at the latest")
    project: str | None = Field(default=None, description="Whose machines they will be; without it nothing is rented")
    data: tuple[str, ...] = Field(default=(), description="URLs of the buckets that they read")
    secrets: tuple[str, ...] = Field(default=(), description="Names that the account must keep a value for")


class Offer(Record):
    """A machine in a place at a price."""

    provider: str
    machine: str
    place: str
    price: float = Field(description="Dollars an hour for one machine, with its disk and address")
    cpus: int
    memory: int
    gpus: tuple[str, ...] = ()
    gpu_memory: int | None = Field(default=None, description="Of each GPU, where it is known")
    region: str | None = None
    market: Market = "on-demand"
    architecture: str = "x86_64"
    python: str | None = Field(default=None, description="The version of python3 on its image, where it is known")
    price_note: str | None = Field(
        default=None, description="Where the price comes from when it is not the provider's own word; then an estimate"
    )
    transfer: float = Field(default=0.0, description="Dollars for each GB that a machine there reads of the run's data")
    makes: tuple[str, ...] = Field(default=(), description="What its lease has beside what all of the provider's have")
    quota: str | None = Field(default=None, description="What of the account's limit is taken and left, in words")
    details: dict[str, Any] = Field(
        default_factory=dict, description="The provider's own: all that its `request` needs beside the boot"
    )


class Offers(Record):
    """What a provider answers to a need."""

    fitting: tuple[Offer, ...] = Field(description="In the order in which to try them, the cheapest first")
    remarks: tuple[str, ...] = Field(default=(), description="What was left out and why, and what could not be asked")


class Capability(Record):
    """What a provider's timers can end without us, and what the user must know."""

    provider: str
    layers: dict[str, str] = Field(description="Each layer that ends the spending, in words")
    condition: str = Field(default="", description="What its timers need to run, like `if this host is on`")
    warnings: tuple[str, ...] = ()
    makes_each: tuple[str, ...] = Field(default=("machine",), description="What every machine consists of")
    makes_once: tuple[str, ...] = Field(default=(), description="What a lease has beside its machines")
    shares_host: bool = Field(default=True, description="Machines see this host's files and programs")
    ask_every_s: float = Field(default=0.0, description="It is asked no more often than this")
    visible_after_s: float = Field(default=0.0, description="For this long it may deny what it has just made")


class Boot(Record):
    """What every machine of a lease is told at its birth: a pure function of the plan, no secret in it."""

    store: str = Field(description="URL of the store that holds the mailbox")
    store_region: str | None = Field(default=None, description="Where its bucket lies, for a store in a cloud")
    project: str
    run: str
    place: str = Field(default="", description="What nobody can guess of where the run's machines read and write")
    attempt: int
    lease: str = Field(description="The lease's name, which is its idempotency token")
    nodes: int
    deadline_at: float
    grace_s: float = Field(description="After the deadline: to stop, commit and go")
    metadata: str | None = Field(default=None, description="The kind of machine, as its agent knows it")
    life_s: float = Field(
        default=2 * 86400.0, description="The longest that a machine may live, whatever its clock says"
    )
    order_wait_s: float = Field(default=600.0, description="Without an order for this long a machine ends itself")
    variables: tuple[str, ...] = Field(
        default=(), description="Names of what a machine that is this host keeps of its environment; NAME_* for several"
    )


class Machine(Record):
    """One machine of a lease as its provider sees it."""

    name: str
    state: Literal["starting", "running", "ended", "gone"] = Field(
        description="ended: the script's processes are over but something of it still stands; gone: nothing does"
    )
    identity: str | None = Field(default=None, description="The provider's own id")
    created_at: float | None = None
    ended_at: float | None = None
    ended_by: str | None = Field(default=None, description="The layer that ended it, where the provider knows")
    kept: str | None = Field(default=None, description="Where its host keeps what the store may not have taken")
    taken_back: bool = Field(default=False, description="Its cloud ended it for reasons of its own")


class Part(Record):
    """Something else that a lease has in its cloud: a volume, a schedule."""

    kind: str
    name: str
    state: Literal["standing", "gone"] = "standing"
    identity: str | None = None
    created_at: float | None = None


class Lease(Record):
    """The machines of one attempt, found by name: complete, half-made or ended."""

    name: str
    project: str
    run: str
    attempt: int
    deadline_at: float
    grace_s: float = Field(default=0.0, description="After the deadline, for its machines to stop, commit and go")
    machines: tuple[Machine, ...]
    parts: tuple[Part, ...] = Field(default=(), description="What else of it stands")
    store: str | None = Field(default=None, description="URL of the store that holds its run's ledger, where known")

    @property
    def ends_at(self) -> float:
        """When its own timers end it."""
        return self.deadline_at + self.grace_s

    def named(self, names: Mapping[str, str]) -> Lease:
        """The same, with its machines called as they call themselves, by their ids; the others as far as that goes."""
        kept = {one.name for one in self.machines if one.identity not in names} - set(names.values())
        free = (name for node in count() if (name := f"{self.name}-n{node}") not in {*kept, *names.values()})
        called = [
            names.get(one.identity or "") or (one.name if one.name in kept else next(free)) for one in self.machines
        ]
        machines = [one.model_copy(update={"name": name}) for one, name in zip(self.machines, called, strict=True)]
        return self.model_copy(update={"machines": tuple(sorted(machines, key=lambda one: (len(one.name), one.name)))})

    @property
    def gone(self) -> bool:
        """Whether nothing of it is left."""
        return all(machine.state == "gone" for machine in self.machines) and not any(
            part.state == "standing" for part in self.parts
        )


class Lookalike(Record):
    """Somebody's machine that carries the tags of a lease, and was not made by its request."""

    identity: str = Field(description="The provider's own id")
    lease: str
    project: str
