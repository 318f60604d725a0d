"""A machine of Amazon EC2, which asks its metadata service who it is and Systems Manager for secrets."""

from __future__ import annotations

import calendar
import time
from typing import Callable, Sequence

from sojourn.agent.clouds import parameters
from sojourn.agent.clouds.imds import Imds
from sojourn.agent.clouds.machine import Machine, Notice
from sojourn.agent.files import Json


class Ec2(Machine):
    """A rented machine: nobody asks its agent to end but the system that is being shut down under it."""

    whole = True
    asked_to_end = "preempted"

    def __init__(self) -> None:
        self._metadata = Imds()

    def identity(self) -> str | None:
        """Return `i-…`."""
        return self._metadata.instance_id()

    def secrets(self, names: Sequence[str], boot: Json, check: Callable[[], None]) -> dict[str, str]:
        """Return the parameters whose paths the machine was told, read by its role."""
        if not names:
            return {}
        kept = boot.get("secrets") or {"paths": {}, "region": boot["store_region"]}
        return parameters.read(names, kept["paths"], kept["region"], check)

    def notice(self) -> Notice | None:
        """Return the spot notice."""
        found = self._metadata.interruption()
        if found is None:
            return None
        return Notice(found["time"], float(calendar.timegm(time.strptime(found["time"], "%Y-%m-%dT%H:%M:%SZ"))))
