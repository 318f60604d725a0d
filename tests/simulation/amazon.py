"""Amazon, as little of it as decides about money: instances, their volumes, one-time schedules.

It answers the calls that `sojourn/providers/ec2` makes through its clients, with latency,
with machines that are not shown at first, with its own errors; and it keeps the account's
true bill, which nobody of ours can read.
https://docs.aws.amazon.com/ec2/latest/devguide/eventual-consistency.html
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, TypeVar

from botocore.exceptions import ClientError, ReadTimeoutError

from simulation.faults import Faults, When
from simulation.world import START, Process, World

T = TypeVar("T")
LATENCY_S = 0.3
BOOT_S = (5.0, 40.0)  # from RunInstances to running
SHOWN_AFTER_S = 60.0
ENDING_S = (3.0, 30.0)  # from shutting-down to terminated
TIMER_LATE_S = 60.0  # a schedule is exact to the minute, and its seconds count for nothing
NOTICE_S = 120.0
REMEMBERED_S = 3600.0  # for how long terminated machines are shown
FILTER_VALUES = 200  # of one call
ENDED_AT_ONCE = 1000
BY_PAGE = {"Reservations": 1000, "Volumes": 500, "Schedules": 100}


@dataclass
class Instance:
    """One machine, with its volume, and all that will ever be billed for it."""

    identity: str
    region: str
    index: int
    call: dict[str, Any]
    launched_at: float
    running_at: float
    shown_at: float
    ended_at: float | None = None
    gone_at: float = float("inf")
    why: str = ""
    notice_at: float | None = None

    @cached_property
    def tags(self) -> dict[str, str]:
        specifications = {one["ResourceType"]: one["Tags"] for one in self.call.get("TagSpecifications", [])}
        return {tag["Key"]: tag["Value"] for tag in specifications.get("instance", [])}

    @property
    def is_strangers(self) -> bool:
        return str(self.call["ClientToken"]).startswith("stranger")

    @property
    def is_spot(self) -> bool:
        return "InstanceMarketOptions" in self.call

    @property
    def launch_index(self) -> int:
        """Each spot machine has a request of its own, and Amazon does not promise that it is numbered among others."""
        return 0 if self.is_spot else self.index

    @property
    def lease(self) -> str:
        return self.tags.get("sojourn:lease", "")

    def state(self, now: float) -> str:
        if self.ended_at is not None:
            return "terminated" if now >= self.gone_at else "shutting-down"
        return "running" if now >= self.running_at else "pending"

    def is_known(self, now: float) -> bool:
        """Whether the API knows it yet, and still."""
        return self.shown_at <= now < self.gone_at + REMEMBERED_S

    def shown(self, now: float) -> dict[str, Any]:
        """As DescribeInstances tells it."""
        found: dict[str, Any] = {
            "InstanceId": self.identity,
            "AmiLaunchIndex": self.launch_index,
            # Amazon does not promise that a spot machine shows it.
            "ClientToken": "" if self.is_spot else self.call["ClientToken"],
            "State": {"Name": self.state(now)},
            "LaunchTime": datetime.fromtimestamp(self.launched_at, UTC),
            "Tags": [{"Key": key, "Value": value} for key, value in self.tags.items()],
        }
        if self.is_spot:
            found["InstanceLifecycle"] = "spot"
        if self.ended_at is not None:
            moment = f"{datetime.fromtimestamp(self.ended_at, UTC):%Y-%m-%d %H:%M:%S}"
            found["StateReason"] = {"Code": self.why}
            found["StateTransitionReason"] = f"User initiated ({moment} GMT)"
        return found


@dataclass
class Amazon:
    """One account in some regions."""

    world: World
    faults: Faults
    start: Callable[[Instance], None]  # a machine comes up
    stop: Callable[[Instance], None]  # and is no more
    regions: tuple[str, ...] = ("us-east-1", "us-west-2")
    timers: bool = True
    instances: dict[str, Instance] = field(default_factory=dict)
    schedules: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    groups: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    tokens: dict[tuple[str, str], tuple[dict[str, Any], list[str]]] = field(default_factory=dict)
    slow_to_show: bool = False  # every machine is shown as late as can be
    refuses: Callable[[str], str | None] = lambda region: None  # what it answers where it has no machines
    armed: set[str] = field(default_factory=set)  # machines that some schedule was to end
    disarmed: set[str] = field(default_factory=set)  # those that lost it while they stood

    def clients(self, process: Process) -> Clients:
        """As one process reaches the account."""
        return Clients(self, process)

    def billable(self) -> list[Instance]:
        return [one for one in self.instances.values() if one.ended_at is None]

    def standing(self) -> list[str]:
        """Everything that somebody would find in the console."""
        now = self.world.now
        names = [one.identity for one in self.instances.values() if now < one.gone_at]
        return names + [name for _, name in (*self.schedules, *self.groups)]

    def terminate(self, instance: Instance, why: str) -> None:
        """The end of a machine, whoever asked for it; its volume goes with it."""
        if instance.ended_at is not None:
            return
        instance.ended_at, instance.why = self.world.now, why
        instance.gone_at = self.world.now + self.world.chance.uniform(*ENDING_S)
        self.world.note(f"amazon: {instance.identity} of {instance.lease} ends: {why}")
        self.stop(instance)

    # -- what the calls do --

    def run_instances(self, region: str, **call: Any) -> dict[str, Any]:
        key = region, call["ClientToken"]
        if key in self.tokens:
            before, made = self.tokens[key]
            if before != call:
                raise refused("IdempotentParameterMismatch", "RunInstances", 400)
            if any(self.instances[one].state(self.world.now) == "terminated" for one in made):
                raise refused("IdempotentInstanceTerminated", "RunInstances", 400)
            if made:
                return self._reservation(made)
        self.tokens[key] = call, []  # what is refused now is bound to its words all the same
        code = self.refuses(region)
        if code:
            self.faults.injected.append(f"refused: {code}")
            raise refused(code, "RunInstances", 400)
        made = [self._launch(region, index, call) for index in range(call["MaxCount"])]
        self.tokens[key] = call, made
        return self._reservation(made)

    def _launch(self, region: str, index: int, call: dict[str, Any]) -> str:
        now, chance = self.world.now, self.world.chance
        shown = now + (chance.uniform(0, SHOWN_AFTER_S) if chance.random() < 0.2 else chance.uniform(0, 1.0))
        shown = now + SHOWN_AFTER_S if self.slow_to_show else shown
        identity = f"i-{len(self.instances):04x}"
        instance = Instance(identity, region, index, call, now, now + chance.uniform(*BOOT_S), shown)
        self.instances[identity] = instance
        self.world.note(f"amazon: {identity} of {instance.lease or instance.tags} launched")
        self.world.at(instance.running_at, lambda: instance.ended_at is None and self.start(instance))
        return identity

    def take_back(self, instance: Instance) -> bool:
        """A spot machine gets its notice; others are never taken."""
        if instance.is_spot:
            instance.notice_at = self.world.now + NOTICE_S
            self.world.at(instance.notice_at, lambda: self.terminate(instance, "Server.SpotInstanceTermination"))
        return instance.is_spot

    def _reservation(self, made: list[str]) -> dict[str, Any]:
        return {"Instances": [self.instances[identity].shown(self.world.now) for identity in made]}

    def describe_instances(self, region: str, Filters: list[dict[str, Any]]) -> dict[str, Any]:
        now = self.world.now
        _check(Filters, "DescribeInstances")
        shown = (one for one in self._here(region) if one.is_known(now))
        matching = [one.shown(now) for one in shown if all(_matches(one, now, wanted) for wanted in Filters)]
        return {"Reservations": [{"Instances": [one]} for one in matching]}

    def describe_volumes(self, region: str, Filters: list[dict[str, Any]]) -> dict[str, Any]:
        now = self.world.now
        _check(Filters, "DescribeVolumes")
        found = [
            {
                "VolumeId": f"vol-{one.identity}",
                "CreateTime": datetime.fromtimestamp(one.launched_at, UTC),
                "Tags": one.shown(now)["Tags"],
                "Attachments": [{"InstanceId": one.identity}],
            }
            for one in self._here(region)
            if one.shown_at <= now < one.gone_at and all(_matches(one, now, wanted) for wanted in Filters)
        ]
        return {"Volumes": found}

    def delete_volume(self, region: str, VolumeId: str) -> None:
        raise refused("VolumeInUse", "DeleteVolume", 400)  # it goes with its machine, and cannot before

    def terminate_instances(self, region: str, InstanceIds: list[str]) -> None:
        if len(InstanceIds) > ENDED_AT_ONCE:
            raise refused("InvalidParameterValue", "TerminateInstances", 400)
        here = {one.identity: one for one in self._here(region)}
        for identity in InstanceIds:
            if identity not in here or not here[identity].is_known(self.world.now):
                raise refused("InvalidInstanceID.NotFound", "TerminateInstances", 400)
        for identity in InstanceIds:
            self.terminate(here[identity], "Client.UserInitiatedShutdown")

    def create_placement_group(self, region: str, **call: Any) -> None:
        key = region, call["GroupName"]
        if key in self.groups:
            raise refused("InvalidPlacementGroup.Duplicate", "CreatePlacementGroup", 400)
        self.groups[key] = call

    def describe_placement_groups(self, region: str, Filters: list[dict[str, Any]]) -> dict[str, Any]:
        found = []
        for (where, name), call in self.groups.items():
            tags = call["TagSpecifications"][0]["Tags"]
            if where == region and _tagged(tags, Filters):
                found.append({"GroupName": name, "GroupId": f"pg-{name}", "State": "available", "Tags": tags})
        return {"PlacementGroups": found}

    def delete_placement_group(self, region: str, GroupName: str) -> None:
        if (region, GroupName) not in self.groups:
            raise refused("InvalidPlacementGroup.Unknown", "DeletePlacementGroup", 400)
        inside = (one for one in self._here(region) if one.call.get("Placement", {}).get("GroupName") == GroupName)
        if any(self.world.now < one.gone_at for one in inside):
            raise refused("InvalidPlacementGroup.InUse", "DeletePlacementGroup", 400)
        del self.groups[region, GroupName]

    def create_schedule(self, region: str, **call: Any) -> None:
        key = region, call["Name"]
        if key in self.schedules:
            raise refused("ConflictException", "CreateSchedule", 409)
        moment = datetime.fromisoformat(call["ScheduleExpression"][3:-1] + "+00:00").timestamp() // 60 * 60
        self.schedules[key] = {**call, "Arn": f"arn:{call['Name']}", "CreationDate": self._date()}
        self.armed |= set(json.loads(call["Target"]["Input"])["InstanceIds"])
        if self.timers:
            late = self.world.chance.uniform(0, TIMER_LATE_S)
            self.world.at(moment + late, lambda: self._fire(key))

    def _fire(self, key: tuple[str, str]) -> None:
        """All of its machines or none: what the API does not know, or forgot, keeps it from ending the others."""
        schedule = self.schedules.pop(key, None)
        if schedule is not None:
            identities = json.loads(schedule["Target"]["Input"])["InstanceIds"]
            try:
                self.terminate_instances(key[0], identities)
            except ClientError:
                self.world.note(f"amazon: the timer {key[1]} ends none of {', '.join(identities)}")

    def get_schedule(self, region: str, Name: str, GroupName: str) -> dict[str, Any]:
        if (region, Name) not in self.schedules:
            raise refused("ResourceNotFoundException", "GetSchedule", 404)
        return self.schedules[region, Name]

    def list_schedules(self, region: str, GroupName: str, NamePrefix: str = "") -> dict[str, Any]:
        names = [name for where, name in self.schedules if where == region and name.startswith(NamePrefix)]
        shown = (self.schedules[region, name] for name in sorted(names))
        kept = ("Name", "Arn", "CreationDate")
        return {"Schedules": [{**{key: one[key] for key in kept}, "Target": {"Arn": "aws-sdk"}} for one in shown]}

    def delete_schedule(self, region: str, Name: str, GroupName: str) -> None:
        schedule = self.schedules.pop((region, Name), None)
        if schedule is None:
            raise refused("ResourceNotFoundException", "DeleteSchedule", 404)
        targets = json.loads(schedule["Target"]["Input"])["InstanceIds"]
        self.disarmed |= {one for one in targets if self.instances[one].ended_at is None}

    def describe_regions(self, region: str) -> dict[str, Any]:
        return {"Regions": [{"RegionName": one} for one in self.regions]}

    def _here(self, region: str) -> Iterator[Instance]:
        return (one for one in self.instances.values() if one.region == region)

    def _date(self) -> datetime:
        return datetime.fromtimestamp(self.world.now, UTC)


def _tagged(tags: list[dict[str, str]], filters: list[dict[str, Any]]) -> bool:
    """Whether these tags pass filters of the form `tag:KEY` or `tag-key`."""
    words = {tag["Key"]: tag["Value"] for tag in tags}
    wanted = ((one["Name"], one["Values"]) for one in filters)
    return all(
        any(value in words for value in values) if name == "tag-key" else words.get(name[4:]) in values
        for name, values in wanted
    )


def _matches(instance: Instance, now: float, wanted: dict[str, Any]) -> bool:
    name, values = wanted["Name"], wanted["Values"]
    if name == "instance-state-name":
        return instance.state(now) in values
    if name == "instance-id":
        return instance.identity in values
    return _tagged(instance.shown(now)["Tags"], [wanted])


class Clients:
    """Stands for `sojourn.clouds.aws.clients.Clients` in one process."""

    region = "us-east-1"
    account = "123456789012"

    def __init__(self, amazon: Amazon, process: Process) -> None:
        self._amazon = amazon
        self._process = process

    def client(self, service: str, region: str | None = None) -> Client:
        return Client(self._amazon, self._process, service, region or self.region)

    def now(self) -> float | None:
        return self._amazon.world.now


class _Errors:
    class ResourceNotFoundException(Exception):  # noqa: N818 - Amazon's own name
        pass


class Client:
    """A client of boto3: each of its methods is a call over the network."""

    exceptions = _Errors

    def __init__(self, amazon: Amazon, process: Process, service: str, region: str) -> None:
        self._amazon = amazon
        self._process = process
        self._service = service
        self._region = region

    def __getattr__(self, name: str) -> Callable[..., Any]:
        answer = getattr(self._amazon, name)

        def call(**what: Any) -> Any:
            def refusal(when: When) -> Exception:
                if when == "before":
                    return refused("ServiceUnavailable", name, 503)
                return ReadTimeoutError(endpoint_url=f"https://{self._service}.{self._region}.amazonaws.com")

            point = f"{self._service}.{name}"
            return self._amazon.faults.call(
                self._process, point, lambda: answer(self._region, **what), LATENCY_S, refusal
            )

        return call

    def get_paginator(self, name: str) -> Pages:
        return Pages(getattr(self, name))


@dataclass
class Pages:
    """An answer by pages, a call for each."""

    ask: Callable[..., Any]

    def paginate(self, PaginationConfig: dict[str, int] | None = None, **what: Any) -> Iterator[dict[str, Any]]:
        page, last = 0, 1
        while page < last:
            ((what_is_listed, found),) = self.ask(**what).items()
            size = (PaginationConfig or {}).get("PageSize", BY_PAGE[what_is_listed])
            assert size <= BY_PAGE[what_is_listed], "Amazon refuses such a page"
            last = -(-len(found) // size)
            yield {what_is_listed: found[page * size : (page + 1) * size]}
            page += 1


def _check(filters: list[dict[str, Any]], action: str) -> None:
    if sum(len(one["Values"]) for one in filters) > FILTER_VALUES:
        raise refused("FilterLimitExceeded", action, 400)


def refused(code: str, action: str, status: int) -> ClientError:
    """Amazon's answer when it does not do what it was asked to."""
    answer = {"Error": {"Code": code, "Message": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(answer, action)  # type: ignore[arg-type]


def seconds(moment: float) -> str:
    """A moment as seconds of this history."""
    return f"{moment - START:.1f}"
