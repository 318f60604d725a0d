"""Ends machines of Sojourn that outlived their deadline, in the region where it runs.

The last of several timers: each machine switches itself off, and a schedule of its own ends it.
This one also sees machines whose schedule was never made. It runs as a function of AWS Lambda,
whose Python brings boto3, and may do nothing but look at machines and end those that carry our
tag. Nothing else of Sojourn is there. Run by hand it does the same: python reaper.py
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from typing import Any

import boto3

GRACE_S = 900  # after a deadline, for the machine and for its own schedule to act first
TAG = "sojourn:"
STANDING = ["pending", "running", "stopping", "stopped"]
NAME = re.compile(r"(sojourn-[a-z]+-[a-z]+-[0-9a-f]{4}-\d+-\d+)-([0-9a-f]{4})")


def handler(event: Any = None, context: Any = None) -> dict[str, dict[str, Any]]:
    """End what is overdue. The answer, by machine: its lease, how late it is, and what was done."""
    ec2 = boto3.client("ec2")
    filters = [
        {"Name": "tag-key", "Values": [TAG + "deadline"]},
        {"Name": "instance-state-name", "Values": STANDING},
    ]
    answers: dict[str, dict[str, Any]] = {}
    for page in ec2.get_paginator("describe_instances").paginate(Filters=filters):
        for machine in (one for reservation in page["Reservations"] for one in reservation["Instances"]):
            tags = {tag["Key"]: tag["Value"] for tag in machine["Tags"]}
            late = lateness(tags, time.time())
            if late is not None:
                done = end(ec2, machine["InstanceId"])
                answers[machine["InstanceId"]] = {"lease": tags[TAG + "lease"], "late_s": late, **done}
    print(json.dumps(answers))
    if any("error" in answer for answer in answers.values()):
        raise RuntimeError(json.dumps(answers))  # so that it counts among the function's errors
    return answers


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


def end(ec2: Any, machine: str) -> dict[str, str]:
    """Terminate one machine. That it cannot be ended keeps no other alive."""
    try:
        ec2.terminate_instances(InstanceIds=[machine])
    except Exception as error:
        return {"error": str(error)}
    return {"done": "terminated"}


if __name__ == "__main__":
    handler()
