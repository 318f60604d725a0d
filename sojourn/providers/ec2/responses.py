"""What EC2 says of what stands, read into our words.

https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeInstances.html
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from datetime import datetime
from itertools import count
from typing import Any, Literal

from sojourn.providers.ec2 import placement
from sojourn.providers.ec2.request import TAG
from sojourn.renting import Machine, Part

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
    return Part(kind=placement.KIND, name=group["GroupName"], identity=group["GroupId"])


def volume_parts(lease: str, volumes: list[dict[str, Any]]) -> Iterator[Part]:
    for number, one in enumerate(volumes):
        created = one["CreateTime"].timestamp()
        yield Part(kind="volume", name=f"{lease}-n{number}", identity=one["VolumeId"], created_at=created)


def armed(schedules: Iterable[dict[str, Any]]) -> set[str]:
    """The machines that these schedules end, as far as they say so; what a list shows of one says nothing of it."""
    return {identity for one in schedules for identity in _targets(one)}


def _targets(schedule: dict[str, Any]) -> list[str]:
    try:
        found = json.loads(schedule["Target"]["Input"])["InstanceIds"]
        return [one for one in found if isinstance(one, str)]
    except (LookupError, TypeError, ValueError):  # of a list, or not written by us
        return []


def is_young(schedule: dict[str, Any], now: float) -> bool:
    """Whether its machine may be so new that the list of machines does not know it."""
    return bool(now - schedule["CreationDate"].timestamp() <= VISIBLE_AFTER_S)


def numbered(instances: Iterable[dict[str, Any]], others: Iterable[str] = ()) -> dict[str, int]:
    """The number of each machine within its lease, by its id: the launch index where that tells them apart.

    Amazon does not say whether several spot machines of one request have indexes of their own, and has none
    for `others`; those get what numbers are left, in the order of their ids.
    """
    index = {one["InstanceId"]: one["AmiLaunchIndex"] for one in instances}
    found: dict[str, int] = {}
    for identity in sorted(index):
        if index[identity] not in found.values():
            found[identity] = index[identity]
    for identity in sorted({*index, *others} - set(found)):
        found[identity] = next(number for number in count() if number not in found.values())
    return found


FIRED_WITHIN_S = 120.0


def machine(name: str, instance: dict[str, Any]) -> Machine:
    state = _STATES[instance["State"]["Name"]]
    return Machine(
        name=name,
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
    # Amazon does not say who asked. Before deadline and grace it was one of us; then the schedule, which is set for the
    # next full minute; what stood for longer had none any more, and was ended by a sweep.
    if ended is None or ended < timer:
        return "release"
    return "cloud timer" if ended <= timer + 60.0 + FIRED_WITHIN_S else "reaper"
