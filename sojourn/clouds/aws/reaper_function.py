"""Ends machines of Sojourn that outlived their deadline, in the region where it runs.

The last of several timers: each machine switches itself off, and a schedule of its own ends it.
This one also sees machines whose schedule was never made. It runs as a function of AWS Lambda,
whose Python brings boto3, and may do nothing but look at machines and their placement groups and
end those that carry our tag. Nothing else of Sojourn is there. Run by hand it does the same: python reaper.py
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import boto3

GRACE_S = 900  # after a deadline, for the machine and for its own schedule to act first
TAG = "sojourn:"
HAS_DEADLINE = {"Name": "tag-key", "Values": [TAG + "deadline"]}
STANDING = ["pending", "running", "stopping", "stopped"]
NAME = re.compile(r"(sojourn-[a-z]+-[a-z]+-[0-9a-f]{4}-\d+-\d+)-([0-9a-f]{4})")

ENDED_AT_ONCE = 50  # machines by one call; a function has a minute

Remove = Callable[[Any, str], dict[str, str]]
Found = tuple[str, dict[str, str], Remove]  # its id, its tags, how it is removed


def handler(event: Any = None, context: Any = None) -> dict[str, dict[str, Any]]:
    """End what is overdue. The answer, by id: its lease, how late it is, and what was done."""
    ec2 = boto3.client("ec2")
    now, ending = time.time(), list[str]()
    found: list[tuple[str, dict[str, Any], Remove]] = []
    for name, tags, remove in [*machines(ec2), *groups(ec2)]:
        late = lateness(tags, now)
        if late is not None:
            found.append((name, {"lease": tags[TAG + "lease"], "late_s": late}, remove))
            ending += [name] if remove is end else []
    ended: dict[str, dict[str, str]] = {}
    for first in range(0, len(ending), ENDED_AT_ONCE):
        ended.update(end_all(ec2, ending[first : first + ENDED_AT_ONCE]))
    answers = {name: {**told, **(ended[name] if name in ended else remove(ec2, name))} for name, told, remove in found}
    print(json.dumps(answers))
    if any("error" in answer for answer in answers.values()):
        raise RuntimeError(json.dumps(answers))  # so that it counts among the function's errors
    return answers


def machines(ec2: Any) -> Iterator[Found]:
    """Every machine that somebody pays for and that has a deadline."""
    filters = [HAS_DEADLINE, {"Name": "instance-state-name", "Values": STANDING}]
    for page in ec2.get_paginator("describe_instances").paginate(Filters=filters):
        for machine in (one for reservation in page["Reservations"] for one in reservation["Instances"]):
            tags = read(machine["Tags"])
            made_by_us = machine.get("ClientToken") == tags.get(TAG + "lease")
            # Amazon does not promise that a spot machine shows the token it was asked for with.
            may_be = machine.get("InstanceLifecycle") == "spot"
            yield machine["InstanceId"], tags, end if made_by_us or may_be else spare


def groups(ec2: Any) -> Iterator[Found]:
    """Every placement group that has a deadline; they are free, and an account may have 500."""
    for group in ec2.describe_placement_groups(Filters=[HAS_DEADLINE])["PlacementGroups"]:
        tags = read(group["Tags"])
        yield group["GroupName"], tags, ungroup if group["GroupName"] == tags.get(TAG + "lease") else spare


def read(tags: list[dict[str, str]]) -> dict[str, str]:
    """Tags by their key."""
    return {tag["Key"]: tag["Value"] for tag in tags}


def lateness(tags: dict[str, str], now: float) -> int | None:
    """Seconds since a machine should have been gone; None when it is in time, or not one of ours."""
    deadline = tags.get(TAG + "deadline", "")
    if not is_ours(tags.get(TAG + "lease", "")) or not deadline.isdecimal():
        return None
    late = now - int(deadline) - GRACE_S
    return round(late) if late > 0 else None


def is_ours(name: str) -> bool:
    """Whether the last four characters of a lease's name are the checksum of those before."""
    match = NAME.fullmatch(name)
    return match is not None and hashlib.sha256(match[1].encode()).hexdigest()[:4] == match[2]


def end_all(ec2: Any, some: list[str]) -> dict[str, dict[str, str]]:
    """Terminate machines by one call, which ends all of them or none; where it is refused, by halves."""
    if len(some) == 1:
        return {some[0]: end(ec2, some[0])}
    try:
        ec2.terminate_instances(InstanceIds=some)
    except Exception:
        half = len(some) // 2
        return {**end_all(ec2, some[:half]), **end_all(ec2, some[half:])}
    return {machine: {"done": "terminated"} for machine in some}


def end(ec2: Any, machine: str) -> dict[str, str]:
    """Terminate one machine. That it cannot be ended keeps no other alive."""
    try:
        ec2.terminate_instances(InstanceIds=[machine])
    except Exception as error:
        return {"error": str(error)}
    return {"done": "terminated"}


def spare(ec2: Any, name: str) -> dict[str, str]:
    """Tags are copied easily: what our request made shows the lease's name as its token, or has it for a name."""
    return {"left": "it carries our tags, but was not made by us"}


def ungroup(ec2: Any, name: str) -> dict[str, str]:
    """Delete one placement group. It has to wait until its last machine is gone."""
    try:
        ec2.delete_placement_group(GroupName=name)
    except Exception as error:
        code = getattr(error, "response", {}).get("Error", {}).get("Code")
        return {"left": "in use"} if code == "InvalidPlacementGroup.InUse" else {"error": str(error)}
    return {"done": "deleted"}


if __name__ == "__main__":
    handler()
