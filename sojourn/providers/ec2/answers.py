"""What EC2 says of what stands, read into our words.

https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeInstances.html
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any, Literal

from sojourn.providers.ec2 import cluster
from sojourn.providers.ec2.calls import TAG
from sojourn.records import Machine, Part

VISIBLE_AFTER_S = 120.0

_STATES: dict[str, Literal["starting", "running", "ended", "gone"]] = {
    "pending": "starting",
    "running": "running",
    "shutting-down": "ended",
    "stopping": "ended",
    "stopped": "ended",
    "terminated": "gone",
}
_ENDED_BY = {
    "Client.InstanceInitiatedShutdown": "machine",
    "Server.SpotInstanceTermination": "spot reclaim",
    "Server.SpotInstanceShutdown": "spot reclaim",
    "Server.InsufficientInstanceCapacity": "no capacity",
    "Server.InternalError": "Amazon's fault",
    "Client.VolumeLimitExceeded": "volume quota",
    "Client.InvalidSnapshot.NotFound": "image without snapshot",
    "Client.InternalError": "volume key without permission",
}


def read_tags(tags: Iterable[dict[str, str]]) -> dict[str, str]:
    """Our own tags, without what makes their names ours."""
    return {tag["Key"].removeprefix(TAG): tag["Value"] for tag in tags if tag["Key"].startswith(TAG)}


def schedule_part(schedule: dict[str, Any]) -> Part:
    created = schedule["CreationDate"].timestamp()
    return Part(kind="schedule", name=schedule["Name"], identity=schedule["Arn"], created_at=created)


def group_part(group: dict[str, Any]) -> Part:
    return Part(kind=cluster.KIND, name=group["GroupName"], identity=group["GroupId"])


def volume_parts(lease: str, volumes: list[dict[str, Any]]) -> Iterator[Part]:
    for number, one in enumerate(volumes):
        created = one["CreateTime"].timestamp()
        yield Part(kind="volume", name=f"{lease}-n{number}", identity=one["VolumeId"], created_at=created)


def armed(schedule: dict[str, Any] | None) -> list[str]:
    """The machines that a schedule ends."""
    return [] if schedule is None else list(json.loads(schedule["Target"]["Input"])["InstanceIds"])


def not_shown_yet(lease: str, schedule: dict[str, Any] | None, shown: set[str | None], now: float) -> list[Machine]:
    """Machines that the timer knows and the list of machines does not, because they are so new."""
    if schedule is None or now - schedule["CreationDate"].timestamp() > VISIBLE_AFTER_S:
        return []
    return [
        Machine(name=f"{lease}-n{node}", state="starting", identity=identity)
        for node, identity in enumerate(armed(schedule))
        if identity not in shown
    ]


def machine(lease: str, instance: dict[str, Any]) -> Machine:
    state = _STATES[instance["State"]["Name"]]
    return Machine(
        name=f"{lease}-n{instance['AmiLaunchIndex']}",
        state=state,
        identity=instance["InstanceId"],
        created_at=instance["LaunchTime"].timestamp(),
        ended_at=_ended_at(instance) if state in ("ended", "gone") else None,
        ended_by=_ended_by(instance) if state in ("ended", "gone") else None,
        taken_back=instance.get("StateReason", {}).get("Code", "").startswith("Server."),
    )


def _ended_at(instance: dict[str, Any]) -> float | None:
    """`User initiated (2026-11-21 12:00:00 GMT)` is all that EC2 says about the end of a machine."""
    said = re.search(r"\((\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) (?:GMT|UTC)\)", instance.get("StateTransitionReason", ""))
    return datetime.fromisoformat(f"{said[1]}+00:00").timestamp() if said else None


def _ended_by(instance: dict[str, Any]) -> str | None:
    code = instance.get("StateReason", {}).get("Code", "")
    if code != "Client.UserInitiatedShutdown":
        return _ENDED_BY.get(code, code or None)
    tags, ended = read_tags(instance["Tags"]), _ended_at(instance)
    timer = float(tags.get("deadline", "inf")) + float(tags.get("grace", 0.0))
    # Amazon does not say who asked; from deadline and grace on it was the schedule, before them one of us.
    return "cloud timer" if ended is not None and ended >= timer else "release"
