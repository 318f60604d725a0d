"""EventBridge Scheduler: one-time schedules, checked when made and fired when due.

Moto keeps any text as a schedule and never fires. Only what ends instances is understood here:
`at(...)` and the target `aws-sdk:ec2:terminateInstances`; anything else is refused, so that a test
cannot believe in a timer that this cloud would never ring.
https://docs.aws.amazon.com/scheduler/latest/UserGuide/schedule-types.html
"""

from __future__ import annotations

import json
import re
import threading
import time
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from moto.core.exceptions import ServiceException
from moto.iam.exceptions import NotFoundException
from moto.iam.models import iam_backends
from moto.scheduler.exceptions import ScheduleGroupNotFound, ValidationException
from moto.scheduler.models import scheduler_backends
from moto.scheduler.responses import EventBridgeSchedulerResponse

from clouds.aws.iam.rules import Request
from clouds.aws.machines import ACCOUNT
from clouds.aws.repairs import repair
from clouds.aws.repairs.instances import check_known, check_unprotected
from clouds.aws.world import World

TERMINATE = "arn:aws:scheduler:::aws-sdk:ec2:terminateInstances"
LOOKS_EVERY_S = 0.2
_AT = re.compile(r"at\((\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)\)")
_NAME = re.compile(r"[0-9a-zA-Z-_.]{1,64}")


@repair(EventBridgeSchedulerResponse, "create_schedule")
def create_schedule(world: World, response: Any, original: Any) -> str:
    _check(response)
    token = response._get_param("ClientToken")
    group = response.scheduler_backend.get_schedule_group(response._get_param("GroupName"))
    name = response.uri.split("?")[0].split("/")[-1]
    standing = group.schedules.get(name)
    asked = json.dumps(json.loads(response.body), sort_keys=True)
    if standing is not None and token and getattr(standing, "asked", None) == asked:
        return json.dumps({"ScheduleArn": standing.arn})  # the same request again
    answer = str(original())
    group.schedules[name].asked = asked
    return answer


@repair(EventBridgeSchedulerResponse, "update_schedule")
def update_schedule(world: World, response: Any, original: Any) -> str:
    _check(response)
    return str(original())


def _check(response: Any) -> None:
    name = response.uri.split("?")[0].split("/")[-1]
    if not _NAME.fullmatch(name):
        raise ValidationException(f"Value '{name}' at 'name' failed to satisfy constraint: {_NAME.pattern}")
    group = response._get_param("GroupName") or "default"
    if group not in response.scheduler_backend.schedule_groups:
        raise ScheduleGroupNotFound(group)
    expression = response._get_param("ScheduleExpression") or ""
    if due(expression, response._get_param("ScheduleExpressionTimezone")) is None:
        raise ValidationException(f"Invalid Schedule Expression {expression}.")
    target = response._get_param("Target") or {}
    if target.get("Arn") != TERMINATE:
        raise ValidationException(f"{target.get('Arn')} is not a target that this stand-in knows: {TERMINATE}")
    _check_role(target.get("RoleArn", ""))
    if not _instances(target):
        raise ValidationException("Target.Input names no InstanceIds")


def _check_role(arn: str) -> None:
    """Raises as EventBridge unless the role exists and trusts the scheduler."""
    try:
        role = iam_backends[ACCOUNT]["aws"].get_role_by_arn(arn)
    except NotFoundException:
        role = None
    if role is None or "scheduler.amazonaws.com" not in str(role.assume_role_policy_document):
        raise ValidationException(
            "The execution role you provide must allow AWS EventBridge Scheduler to assume the role."
        )


def due(expression: str, timezone: str | None) -> float | None:
    """When a one-time schedule fires, in seconds since 1970; None for an expression that is none."""
    found = _AT.fullmatch(expression)
    if not found:
        return None
    try:
        return datetime.fromisoformat(found[1]).replace(tzinfo=ZoneInfo(timezone or "UTC")).timestamp()
    except (ValueError, ZoneInfoNotFoundError):
        return None


def _terminate(world: World, role: str, wanted: list[str]) -> None:
    """TerminateInstances ends all that it was told to, or none of them."""
    check_known(world, wanted)
    machines = [world.machines.get(one) for one in wanted]
    for machine in machines:
        arn = f"arn:aws:ec2:{machine.region}:{ACCOUNT}:instance/{machine.id}"
        tags = {f"aws:ResourceTag/{key}": value for key, value in machine.tags.items()}
        if not world.guard.may(role, Request("ec2:TerminateInstances", arn, tags)):
            raise ValidationException("UnauthorizedOperation")
    check_unprotected(machines)
    for machine in machines:
        world.machines.terminate(machine)


def _instances(target: dict[str, Any]) -> list[str]:
    try:
        return list(json.loads(target.get("Input") or "{}").get("InstanceIds", []))
    except ValueError:
        return []


def ring(world: World) -> None:
    """Fire what is due, for as long as this process lives."""

    def look() -> None:
        while True:
            time.sleep(LOOKS_EVERY_S)
            for backend in list(scheduler_backends[ACCOUNT].values()):
                for group in list(backend.schedule_groups.values()):
                    for schedule in list(group.schedules.values()):
                        _fire_if_due(world, group, schedule)

    threading.Thread(target=look, name="schedules", daemon=True).start()


def _fire_if_due(world: World, group: Any, schedule: Any) -> None:
    at = due(schedule.schedule_expression, schedule.schedule_expression_timezone)
    if at is None:
        return
    minute = at // 60 * 60  # what is for 1:00:45 may be done from 1:00:00 on
    is_early = minute > time.time() + world.timing.minute_ahead_s
    if is_early or schedule.state != "ENABLED" or getattr(schedule, "fired", False):
        return
    schedule.fired = True
    record: dict[str, Any] = {"schedule": schedule.name, "at": time.time(), "error": None}
    try:
        _check_role(schedule.target.get("RoleArn", ""))
        _terminate(world, schedule.target["RoleArn"], _instances(schedule.target))
    except (ValidationException, ServiceException) as error:
        record["error"] = str(error)
    world.fired.append(record)
    if schedule.action_after_completion == "DELETE":
        group.schedules.pop(schedule.name, None)
