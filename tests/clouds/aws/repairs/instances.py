"""What DescribeInstances shows and when, and how instances end.

Moto shows a new instance at once and as running, ends it at once, and answers an unknown filter
with a page of HTML.
"""

from __future__ import annotations

import base64
from typing import Any

from moto.core.responses import ActionResult
from moto.ec2 import utils
from moto.ec2.exceptions import EC2ClientError, InvalidInstanceIdError, OperationNotPermitted4
from moto.ec2.responses import EC2Response

from clouds.aws.machines import Machine
from clouds.aws.repairs import repair
from clouds.aws.world import World

# Filters of DescribeInstances that moto lacks, and where an instance has the value.
utils.filter_dict_attribute_mapping.update(
    {
        "client-token": "client_token",
        "instance-lifecycle": "lifecycle",
        "placement-group-name": "placement.group_name",
        "spot-instance-request-id": "spot_instance_request_id",
        "instance-state-code": "state_code",
    }
)


@repair(EC2Response, "describe_instances")
def describe_instances(world: World, response: EC2Response, original: Any) -> ActionResult:
    check_known(world, response.params.get("InstanceIds", []))
    try:
        result = original().result
    except NotImplementedError:
        names = ", ".join(response._filters_from_querystring())
        raise EC2ClientError("InvalidParameterValue", f"The filter '{names}' is invalid") from None
    for reservation in result["Reservations"]:
        reservation.instances = [one for one in reservation.instances if world.machines.seen(one.id)]
    result["Reservations"] = [one for one in result["Reservations"] if one.instances]
    return ActionResult(result)


@repair(EC2Response, "describe_instance_status")
def describe_instance_status(world: World, response: EC2Response, original: Any) -> ActionResult:
    check_known(world, response.params.get("InstanceIds", []))
    result = original().result
    result["InstanceStatuses"] = [one for one in result["InstanceStatuses"] if world.machines.seen(one.id)]
    return ActionResult(result)


@repair(EC2Response, "terminate_instances")
def terminate_instances(world: World, response: EC2Response, original: Any) -> ActionResult:
    machines = _machines(world, response)
    check_unprotected(machines)
    return _changed("TerminatingInstances", machines, world.machines.terminate)


def check_unprotected(machines: list[Machine]) -> None:
    """Raises as EC2 for the first that may not be terminated; then none of them is."""
    for machine in machines:
        if machine.instance.disable_api_termination:
            raise OperationNotPermitted4(machine.id)


@repair(EC2Response, "stop_instances")
def stop_instances(world: World, response: EC2Response, original: Any) -> ActionResult:
    return _changed("StoppingInstances", _machines(world, response), world.machines.stop)


@repair(EC2Response, "start_instances")
def start_instances(world: World, response: EC2Response, original: Any) -> ActionResult:
    return _changed("StartingInstances", _machines(world, response), world.machines.start)


@repair(EC2Response, "get_console_output")
def get_console_output(world: World, response: EC2Response, original: Any) -> ActionResult:
    """What the machine has printed: its last 64 KB. Moto answers a text of its own."""
    machine = world.machines.get(response.params["InstanceId"])
    console = getattr(world.machines.power, "console", None)
    said = console(machine)[-(1 << 16) :] if console else b""
    return ActionResult(
        {
            "InstanceId": machine.id,
            "Timestamp": machine.instance.launch_time,
            "Output": base64.b64encode(said).decode(),
        }
    )


def _machines(world: World, response: EC2Response) -> list[Machine]:
    wanted = response.params.get("InstanceIds", [])
    check_known(world, wanted)
    response.error_on_dryrun()
    return [world.machines.get(one) for one in wanted]


def check_known(world: World, wanted: list[str]) -> None:
    """Raises as EC2 when one of them is not shown yet, or forgotten."""
    unknown = [one for one in wanted if not world.machines.seen(one)]
    if unknown:
        raise InvalidInstanceIdError(unknown)


def _changed(word: str, machines: list[Machine], change: Any) -> ActionResult:
    rows = []
    for machine in machines:
        before = machine.instance._state
        change(machine)
        rows.append({"InstanceId": machine.id, "CurrentState": machine.instance._state, "PreviousState": before})
    return ActionResult({word: rows})
