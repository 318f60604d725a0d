"""Requests as botocore's models have them, enums, patterns and lengths included.

The calls of every other test of `tests/providers` are checked likewise, by a fixture of its conftest.
"""

from __future__ import annotations

import json
from typing import Any

import botocore.session
import pytest
from truth.shapes import problems

from sojourn.agent.pack import Archive
from sojourn.names import LeaseName
from sojourn.providers.ec2 import request as calls
from sojourn.renting import Boot, Offer

AGENT = Archive(b"not looked at", "0" * 64)
NAME = LeaseName("sincere-bunting-ffff", 99, 11)  # as long as one can be


def found(service: str, operation: str, call: dict[str, Any]) -> list[str]:
    model = botocore.session.get_session().get_service_model(service).operation_model(operation)
    return list(problems(model.input_shape, call, operation))


@pytest.mark.parametrize("market", ["on-demand", "spot"])
def test_the_calls_that_make_a_lease_are_what_the_models_say(market: Any) -> None:
    boot = Boot(
        store="s3://acme-sojourn/team", store_region="us-east-1", project="p" * 45, run=NAME.run, attempt=99,
        lease=str(NAME), nodes=120, deadline_at=2e9, grace_s=60.0, life_s=7260.0,
    )  # fmt: skip
    details = {
        "image": "ami-0123456789abcdef0", "root_device": "/dev/sda1", "disk": 30, "subnet": "subnet-1", "group": "sg-1",
        "profile": "sojourn-machine-" + "p" * 45, "cluster": True,
        "scheduler_role": "arn:aws:iam::123456789012:role/sojourn-scheduler",
    }  # fmt: skip
    offer = Offer(
        provider="aws", machine="t3.micro", place="us-east-1b", price=0.02, cpus=2, memory=2**30, region="us-east-1",
        market=market, details=details,
    )  # fmt: skip
    request = calls.request(boot, offer, AGENT)
    assert found("ec2", "RunInstances", request["run_instances"]) == []
    assert found("ec2", "CreatePlacementGroup", request["create_placement_group"]) == []
    for call in request["create_schedules"]:
        target = {**call["Target"], "Input": json.dumps({"InstanceIds": ["i-0123456789abcdef0"]})}
        assert found("scheduler", "CreateSchedule", {**call, "Target": target}) == []
    assert len(request["create_schedules"][-1]["Name"]) <= 64


def test_what_a_model_does_not_know_is_told() -> None:
    call = {"ImageId": "ami-1", "MinCount": 1, "MaxCount": 1, "InstanceInitiatedShutdownBehavior": "vanish", "Odd": 1}
    assert found("ec2", "RunInstances", call) == [
        "RunInstances.InstanceInitiatedShutdownBehavior: 'vanish' is none of stop, terminate",
        "RunInstances.Odd is not known",
    ]
    long = found("scheduler", "CreateSchedule", {"Name": "a b", "FlexibleTimeWindow": {"Mode": "OFF"}})
    assert len(long) == 3 and "does not match" in long[-1]
