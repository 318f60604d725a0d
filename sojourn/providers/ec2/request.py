"""The calls that make a lease, from what was decided alone: the same decision is the same calls.

https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_RunInstances.html
https://docs.aws.amazon.com/scheduler/latest/APIReference/API_CreateSchedule.html
"""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from typing import Any

from sojourn.agent.pack import Archive
from sojourn.clouds.aws.foundation import SCHEDULE_GROUP
from sojourn.errors import SpecError
from sojourn.names import LeaseName
from sojourn.providers.contract import Request
from sojourn.providers.ec2 import placement
from sojourn.providers.ec2.boot import user_data
from sojourn.renting import Boot, Offer

Tags = list[dict[str, str]]
TAG = "sojourn:"
TERMINATE = "arn:aws:scheduler:::aws-sdk:ec2:terminateInstances"


def request(boot: Boot, offer: Offer, agent: Archive) -> Request:
    """The whole RunInstances call, and that of each machine's schedule but for the id that is not known yet.

    Raises SpecError for a lease whose name is not one.
    """
    name = LeaseName.parse(boot.lease)
    if name is None or str(name) != boot.lease:
        raise SpecError(f"lease: {boot.lease!r} is not the name of a lease")
    tags = _tags(boot)
    near = bool(offer.details.get("cluster"))
    return {
        "token": boot.lease,
        "region": offer.region,
        "ends_at": math.ceil(boot.deadline_at + boot.grace_s),
        "machines": [name.machine(node) for node in range(boot.nodes)],
        "parts": [
            *({"kind": "volume", "name": name.machine(node)} for node in range(boot.nodes)),
            *({"kind": "schedule", "name": name.machine(node)} for node in range(boot.nodes)),
            *([{"kind": placement.KIND, "name": boot.lease}] if near else []),
        ],
        **({"create_placement_group": placement.creation(boot.lease, tags)} if near else {}),
        "run_instances": _run_instances(boot, offer, agent, tags),
        "create_schedules": [_create_schedule(boot, offer, name.machine(node)) for node in range(boot.nodes)],
    }


def current(written: Request) -> Request:
    """A request of a run's ledger as this version sends it.

    Earlier versions wrote one timer for all machines of a lease, and when they must end in it alone.
    """
    if "ends_at" in written:
        return written
    schedules = written.get("create_schedules") or [
        {**written["create_schedule"], "Name": machine, "ClientToken": machine} for machine in written["machines"]
    ]
    ends_at = datetime.strptime(schedules[0]["ScheduleExpression"], "at(%Y-%m-%dT%H:%M:%S)").replace(tzinfo=UTC)
    timed = {"ScheduleExpression": by(ends_at.timestamp())}
    return {
        **written,
        "ends_at": int(ends_at.timestamp()),
        "create_schedules": [{**one, **timed} for one in schedules],
    }


def by(moment: float) -> str:
    """EventBridge's word for the first full minute that is not before a moment.

    It is exact to the minute alone: what is for 1:00:45 may be done from 1:00:00 on.
    https://docs.aws.amazon.com/scheduler/latest/UserGuide/schedule-types.html
    """
    return f"at({datetime.fromtimestamp(math.ceil(moment / 60) * 60, UTC):%Y-%m-%dT%H:%M:%S})"


def _run_instances(boot: Boot, offer: Offer, agent: Archive, tags: Tags) -> dict[str, Any]:
    details = offer.details
    kinds = ["instance", "volume", "network-interface"]
    kinds += ["spot-instances-request"] if offer.market == "spot" else []
    call: dict[str, Any] = {
        "ClientToken": boot.lease,
        "MinCount": boot.nodes,
        "MaxCount": boot.nodes,
        "InstanceType": offer.machine,
        "ImageId": details["image"],
        "IamInstanceProfile": {"Name": details["profile"]},
        "InstanceInitiatedShutdownBehavior": "terminate",
        "MetadataOptions": {"HttpEndpoint": "enabled", "HttpTokens": "required", "HttpPutResponseHopLimit": 1},
        "NetworkInterfaces": [_interface(details)],
        "BlockDeviceMappings": [_disk(details)],
        "TagSpecifications": [{"ResourceType": kind, "Tags": tags} for kind in kinds],
        "UserData": user_data(boot, agent, details.get("secrets")),
    }
    if offer.market == "spot":
        options = {"SpotInstanceType": "one-time", "InstanceInterruptionBehavior": "terminate"}
        call["InstanceMarketOptions"] = {"MarketType": "spot", "SpotOptions": options}
    if re.match(r"t\d", offer.machine):
        # Unlimited credits, which are the default, cost money that no price list shows.
        call["CreditSpecification"] = {"CpuCredits": "standard"}
    if details.get("cluster"):
        call["Placement"] = {"GroupName": boot.lease}
    return call


def _interface(details: dict[str, Any]) -> dict[str, Any]:
    return {
        "DeviceIndex": 0,
        "SubnetId": details["subnet"],
        "Groups": [details["group"]],
        # The way out; the group lets nobody in.
        "AssociatePublicIpAddress": details.get("address", True),
        "DeleteOnTermination": True,
    }


def _disk(details: dict[str, Any]) -> dict[str, Any]:
    volume = {"VolumeSize": details["disk"], "VolumeType": "gp3", "Encrypted": True, "DeleteOnTermination": True}
    return {"DeviceName": details["root_device"], "Ebs": volume}


def _tags(boot: Boot) -> Tags:
    values = {
        "Name": boot.lease,
        f"{TAG}lease": boot.lease,
        f"{TAG}project": boot.project,
        f"{TAG}run": boot.run,
        f"{TAG}attempt": str(boot.attempt),
        f"{TAG}nodes": str(boot.nodes),
        f"{TAG}deadline": str(int(boot.deadline_at)),
        f"{TAG}grace": str(math.ceil(boot.grace_s)),
        f"{TAG}store": boot.store,
    }
    return [{"Key": key, "Value": value} for key, value in values.items()]


def _create_schedule(boot: Boot, offer: Offer, machine: str) -> dict[str, Any]:
    """One for each machine: a call that names several ends all of them or, where one is gone, none."""
    return {
        "Name": machine,
        "GroupName": SCHEDULE_GROUP,
        "ClientToken": machine,
        "Description": f"ends a machine of {boot.run}, whatever else happens",
        "ScheduleExpression": by(boot.deadline_at + boot.grace_s),
        "FlexibleTimeWindow": {"Mode": "OFF"},
        "ActionAfterCompletion": "DELETE",
        "Target": {
            "Arn": TERMINATE,
            "RoleArn": offer.details["scheduler_role"],
            "RetryPolicy": {"MaximumEventAgeInSeconds": 86400, "MaximumRetryAttempts": 185},
        },
    }
