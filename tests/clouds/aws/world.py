"""All that this cloud knows beside moto's own state."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from moto.moto_api._internal.models import moto_api_backend

from clouds.aws.credentials import Desk
from clouds.aws.faults import Faults
from clouds.aws.iam.guard import Guard
from clouds.aws.machines import Machines, Timing
from clouds.aws.market import Market, Place


@dataclass
class World:
    timing: Timing = field(default_factory=Timing)
    market: Market = field(default_factory=Market)
    faults: Faults = field(default_factory=Faults)
    guard: Guard = field(default_factory=Guard)
    # (region, client token) -> what was asked and the reservation that answered it
    launches: dict[tuple[str, str], tuple[str, Any]] = field(default_factory=dict)
    spot_requests: dict[str, Any] = field(default_factory=dict)
    placement_groups: dict[tuple[str, str], Any] = field(default_factory=dict)  # by region and name
    fired: list[dict[str, Any]] = field(default_factory=list)  # schedules that went off

    def __post_init__(self) -> None:
        self.machines = Machines(self.timing)
        self.desk = Desk(self.timing)

    def taken(self) -> list[tuple[str, Place]]:
        """(region, place) of every machine that takes up room."""
        living = [machine for machine in self.machines.living() if machine.state != "stopped"]
        return [(machine.region, Place(machine.type, machine.zone, machine.market)) for machine in living]

    def reset(self) -> None:
        """A new account in which nothing ever happened."""
        self.machines.forget()
        self.timing.__init__()  # type: ignore[misc]
        self.market.clear()
        self.faults.clear()
        self.guard.clear()
        for kept in (self.launches, self.spot_requests, self.placement_groups, self.fired):
            kept.clear()
        moto_api_backend.reset()
