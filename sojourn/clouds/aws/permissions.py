"""Tries what whoever runs Sojourn must be allowed, without renting and without leaving anything.

https://docs.aws.amazon.com/AWSEC2/latest/APIReference/CommonParameters.html (DryRun)
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from sojourn.clouds.aws.clients import Clients
from sojourn.clouds.aws.errors import code_of, translated
from sojourn.clouds.aws.foundation import SCHEDULE_GROUP, Foundation, Names
from sojourn.clouds.aws.policies import LEASE_TAG, orchestrator
from sojourn.errors import SojournError, SpecError

PRICING_REGION = "us-east-1"  # the price list of all regions is asked here
UNTRIED = ("ec2:TerminateInstances", "ec2:DeleteVolume", "scheduler:CreateSchedule", "scheduler:DeleteSchedule")
_IMAGE = "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-x86_64"
_CORES = {"ServiceCode": "ec2", "QuotaCode": "L-1216C47A"}  # virtual cores of standard machines on demand
_LEASE = "sojourn-calm-panda-a2e3-1-0-e4b3"  # nobody's: it is only asked what would be


@dataclass(frozen=True)
class Right:
    """An action and how to try it; `attempt` raises AccessError when it is not allowed."""

    action: str
    attempt: Callable[[], object]
    needed: bool = True


def harmless(clients: Clients, foundation: Foundation) -> Iterator[Right]:
    """Every right that can be tried without doing harm."""
    ec2 = clients.client("ec2")
    for action in _described(foundation):
        yield Right(f"ec2:{action}", partial(_dry, action, getattr(ec2, _snake(action))))
    yield Right("ec2:RunInstances", lambda: _dry("RunInstances", ec2.run_instances, **_launch(clients, foundation)))
    calls: list[tuple[str, str, str, dict[str, Any]]] = [
        ("ssm:GetParameters", "ssm", "get_parameters", {"Names": [_IMAGE]}),
        ("ssm:DescribeParameters", "ssm", "describe_parameters", {"MaxResults": 1}),
        ("scheduler:ListSchedules", "scheduler", "list_schedules", {"GroupName": SCHEDULE_GROUP, "MaxResults": 1}),
        ("pricing:GetProducts", "pricing", "get_products", {"ServiceCode": "AmazonEC2", "MaxResults": 1}),
        ("servicequotas:GetServiceQuota", "service-quotas", "get_service_quota", _CORES),
        ("servicequotas:GetAWSDefaultServiceQuota", "service-quotas", "get_aws_default_service_quota", _CORES),
    ]
    for action, service, call, what in calls:
        needed = service not in ("pricing", "service-quotas")
        yield Right(action, partial(_ask, clients, action, service, call, what), needed)


def simulated(clients: Clients, foundation: Foundation) -> list[str] | None:
    """Those of `UNTRIED` that IAM says would be denied; None when it may not be asked."""
    instance = f"arn:aws:ec2:{foundation.region}:{foundation.account}:instance/i-00000000000000000"
    tag = {"ContextKeyName": f"aws:ResourceTag/{LEASE_TAG}", "ContextKeyValues": [_LEASE], "ContextKeyType": "string"}
    resources = {
        "ec2:TerminateInstances": instance,
        "ec2:DeleteVolume": instance.replace("instance/i-", "volume/vol-"),
        "scheduler": f"arn:aws:scheduler:{foundation.region}:{foundation.account}:schedule/{SCHEDULE_GROUP}/{_LEASE}",
    }
    denied = []
    try:
        for action in UNTRIED:
            on = resources.get(action, resources["scheduler"])
            with translated(f"simulate {action}"):
                answer = clients.client("iam").simulate_principal_policy(
                    PolicySourceArn=_policy_source(clients.caller.arn),
                    ActionNames=[action],
                    ResourceArns=[on],
                    ContextEntries=[tag],
                )
            denied += [one["EvalActionName"] for one in answer["EvaluationResults"] if one["EvalDecision"] != "allowed"]
    except SojournError:
        return None
    return denied


def _described(foundation: Foundation) -> list[str]:
    """The actions of EC2 that only look; each takes a dry run without further words."""
    names = Names(foundation.account, foundation.region, foundation.project)
    actions = [action for one in orchestrator(names)["Statement"] if one["Sid"] == "Look" for action in one["Action"]]
    return [action.removeprefix("ec2:") for action in actions if action.startswith("ec2:")]


def _dry(action: str, call: Callable[..., object], **what: Any) -> None:
    try:
        with translated(f"try {action}"):
            call(DryRun=True, **what)
    except SojournError as error:
        if error.__cause__ is None or code_of(error.__cause__) != "DryRunOperation":
            raise


def _ask(clients: Clients, action: str, service: str, call: str, what: dict[str, Any]) -> None:
    region = PRICING_REGION if service == "pricing" else None
    with translated(f"try {action}"):
        getattr(clients.client(service, region), call)(**what)


def _launch(clients: Clients, foundation: Foundation) -> dict[str, Any]:
    """What a small run would ask for, tags and role included."""
    with translated("find an image to try with"):
        images = clients.client("ssm").get_parameters(Names=[_IMAGE])["Parameters"]
    if not images:
        raise SpecError(f"aws: no image is known as {_IMAGE}")
    tags = [{"Key": LEASE_TAG, "Value": _LEASE}]
    return {
        "ImageId": images[0]["Value"],
        "InstanceType": "t3.nano",
        "MinCount": 1,
        "MaxCount": 1,
        "IamInstanceProfile": {"Arn": foundation.profile_arn},
        "SecurityGroupIds": [foundation.group_id],
        "TagSpecifications": [{"ResourceType": kind, "Tags": tags} for kind in ("instance", "volume")],
    }


def _policy_source(arn: str) -> str:
    """The user or role behind a caller: a session's own ARN has no policies."""
    match = re.fullmatch(r"arn:([^:]+):sts::(\d+):assumed-role/([^/]+)/.*", arn)
    return f"arn:{match[1]}:iam::{match[2]}:role/{match[3]}" if match else arn


def _snake(action: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", action).lower()
