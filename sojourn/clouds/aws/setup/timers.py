"""The group of schedules that end our machines at their deadlines."""

from __future__ import annotations

from typing import Any

from sojourn.clouds.aws.clients import Clients
from sojourn.clouds.aws.errors import translated
from sojourn.clouds.aws.foundation import SCHEDULE_GROUP, find_schedule_group


class ScheduleGroup:
    """A group of EventBridge schedules in one region."""

    def __init__(self, clients: Clients, region: str) -> None:
        self.title = f"schedule group {SCHEDULE_GROUP} in {region}"
        self._clients = clients
        self._region = region

    def wanted(self) -> dict[str, Any]:
        """What it should be."""
        return {"state": "ACTIVE"}

    def standing(self) -> dict[str, Any] | None:
        """What it is; None while there is none."""
        found = find_schedule_group(self._clients, self._region)
        return {"state": found["State"]} if found else None

    def make(self, has: dict[str, Any] | None) -> None:
        """Create it. One that is being deleted makes Amazon refuse, and is made the next time."""
        with translated(f"make {self.title}"):
            self._clients.client("scheduler", self._region).create_schedule_group(Name=SCHEDULE_GROUP)

    def remove(self) -> None:
        """Delete it, and with it whatever schedules it still has."""
        with translated(f"delete {self.title}"):
            self._clients.client("scheduler", self._region).delete_schedule_group(Name=SCHEDULE_GROUP)
