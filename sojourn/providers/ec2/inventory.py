"""What of a lease stands in a region, and what only looks like it.

Tags are copied: by "launch more like this", by a template, with a restored backup. A machine is ours
when it shows the token of our request, or when one of the lease's own schedules names it, which are
armed with exactly the machines that Amazon answered that request with. Whether a spot machine shows the
token its page does not say, so one without schedules that would tell, one for each machine of the lease,
is ours by its tags: a machine of ours that nobody ends is worse. A volume is whose machine has it.
https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_Instance.html
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from sojourn.errors import SpecError
from sojourn.names import LeaseName
from sojourn.providers.ec2 import answers, calls, cluster
from sojourn.providers.ec2.clients import Clients
from sojourn.providers.ec2.errors import code_of, translated
from sojourn.providers.ec2.foundation import SCHEDULE_GROUP
from sojourn.records import Lease, Lookalike, Machine, Part
from sojourn.waiting import Clock

Instance = dict[str, Any]
Filters = list[dict[str, Any]]
TAGGED: Filters = [{"Name": "tag-key", "Values": [f"{calls.TAG}lease"]}]
STANDING = {
    "Name": "instance-state-name",
    "Values": ["pending", "running", "shutting-down", "stopping", "stopped"],
}


class Inventory:
    """One account, read region by region."""

    def __init__(self, clients: Clients, clock: Clock) -> None:
        self.clients = clients
        self.clock = clock

    def lease(self, name: str, region: str) -> Lease | None:
        """The lease of this name as it stands in a region; None where nothing of it does."""
        named = [{"Name": f"tag:{calls.TAG}lease", "Values": [name]}]
        instances, _ = self._parted(name, region, self._instances(region, named))
        tagged = instances
        parts: list[Part] = []
        unseen: list[str] = []
        if all(one["State"]["Name"] == "terminated" for one in instances):
            # While machines stand, what belongs to them does too: there is no need to ask.
            schedules = self.schedules(name, region)
            volumes = self._volumes_of(name, region, instances, named)
            groups = [one for one in cluster.find(self.clients, region, named) if one["GroupName"] == name]
            parts = [
                *answers.volume_parts(name, volumes),
                *map(answers.schedule_part, schedules),
                *map(answers.group_part, groups),
            ]
            now = self.clients.now() or self.clock.now()  # by the clock that dated the schedules
            unseen = answers.too_new(schedules, {one["InstanceId"] for one in instances}, now)
            tagged = [*instances, *groups, *volumes]
        if not instances and not parts:
            return None
        tags = answers.read_tags(tagged[0]["Tags"]) if tagged else {}
        parsed = LeaseName.parse(name)
        assert parsed is not None
        numbers = answers.numbered(instances, unseen)
        machines = [answers.machine(parsed.machine(numbers[one["InstanceId"]]), one) for one in instances]
        machines += [Machine(name=parsed.machine(numbers[one]), state="starting", identity=one) for one in unseen]
        return Lease(
            name=name,
            project=tags.get("project", ""),
            run=parsed.run,
            attempt=parsed.attempt,
            deadline_at=float(tags.get("deadline", 0.0)),
            grace_s=float(tags.get("grace", 0.0)),
            machines=tuple(sorted(machines, key=lambda one: LeaseName.node_of(one.name))),
            parts=tuple(parts),
            store=tags.get("store"),
        )

    def names(self, region: str) -> set[str]:
        """The names of ours that anything in a region carries."""
        running = self._instances(region, [*TAGGED, STANDING])
        tagged = [*running, *self._volumes(TAGGED, region), *cluster.find(self.clients, region, TAGGED)]
        words = [_tags(one).get("lease", "") for one in tagged]
        timed = map(LeaseName.parse, self._schedules(region))
        return {*filter(is_lease, words), *(str(one) for one in timed if one is not None)}

    def lookalikes(self, region: str) -> list[Lookalike]:
        """Machines in a region with the tags of a lease that its request did not make."""
        named: dict[str, list[Instance]] = {}
        for one in self._instances(region, [*TAGGED, STANDING]):
            named.setdefault(_tags(one)["lease"], []).append(one)
        return [
            Lookalike(identity=one["InstanceId"], lease=name, project=_tags(one).get("project", ""))
            for name, instances in sorted(named.items())
            if is_lease(name)
            for one in self._parted(name, region, instances)[1]
        ]

    def schedules(self, name: str, region: str) -> list[dict[str, Any]]:
        """Those that end a lease's machines, one for each."""
        listed = [one for one in self._schedules(region, name) if str(LeaseName.parse(one)) == name]
        # Amazon does not promise that a list shows at once what was made: the first is asked for by its name.
        found = [self._schedule(one, region) for one in listed or [f"{name}-n0"]]
        return [one for one in found if one is not None]

    # -- whose it is --

    def _parted(self, name: str, region: str, found: Iterable[Instance]) -> tuple[list[Instance], list[Instance]]:
        """Those that the lease's request made, and the others."""
        instances = list(found)
        others = [one for one in instances if one.get("ClientToken") != name]
        if others:
            armed = answers.armed(self.schedules(name, region))
            others = [one for one in others if one["InstanceId"] not in armed and not _may_be(one, len(armed))]
        return [one for one in instances if one not in others], others

    def _volumes_of(self, name: str, region: str, instances: list[Instance], named: Filters) -> list[dict[str, Any]]:
        """Those that carry the tags, but for what a machine of somebody else's has."""
        volumes = self._volumes(named, region)
        held = {one["VolumeId"]: {by["InstanceId"] for by in one.get("Attachments", [])} for one in volumes}
        unknown = set().union(*held.values()) - {one["InstanceId"] for one in instances}
        if not unknown:
            return volumes
        holders = self._instances(region, [{"Name": "instance-id", "Values": sorted(unknown)}])
        theirs = {one["InstanceId"] for one in self._parted(name, region, holders)[1]}
        return [one for one in volumes if not held[one["VolumeId"]] & theirs]

    # -- what Amazon answers --

    def _instances(self, region: str, filters: Filters) -> Iterator[Instance]:
        with translated(f"look for machines in {region}"):
            pages = self.clients.client("ec2", region).get_paginator("describe_instances").paginate(Filters=filters)
            for page in pages:
                for reservation in page["Reservations"]:
                    yield from reservation["Instances"]

    def _volumes(self, filters: Filters, region: str) -> list[dict[str, Any]]:
        with translated(f"look for volumes in {region}"):
            found: list[dict[str, Any]] = self.clients.client("ec2", region).describe_volumes(Filters=filters)[
                "Volumes"
            ]
        return sorted(found, key=lambda one: str(one["VolumeId"]))

    def _schedule(self, name: str, region: str) -> dict[str, Any] | None:
        try:
            with translated(f"look for the schedule of {name}"):
                found: dict[str, Any] = self.clients.client("scheduler", region).get_schedule(
                    Name=name, GroupName=SCHEDULE_GROUP
                )
        except SpecError as error:
            if code_of(error.__cause__ or error) != "ResourceNotFoundException":
                raise
            return None
        return found

    def _schedules(self, region: str, prefix: str | None = None) -> list[str]:
        """The names of ours, all of them or those that begin with the prefix."""
        client = self.clients.client("scheduler", region)
        below = {"NamePrefix": prefix} if prefix else {}
        with translated(f"look for what is left in {region}"):
            try:
                pages = client.get_paginator("list_schedules").paginate(GroupName=SCHEDULE_GROUP, **below)
                return [one["Name"] for page in pages for one in page["Schedules"]]
            except client.exceptions.ResourceNotFoundException:
                return []  # nothing was ever set up in this region


def _may_be(instance: Instance, armed: int) -> bool:
    """Whether a machine without our token is ours all the same, where not all timers of its lease were armed."""
    return instance.get("InstanceLifecycle") == "spot" and armed < int(_tags(instance).get("nodes", "1"))


def is_lease(word: str) -> bool:
    """Whether this is the name of a lease, as we give them."""
    parsed = LeaseName.parse(word)
    return parsed is not None and str(parsed) == word


def _tags(one: dict[str, Any]) -> dict[str, str]:
    return answers.read_tags(one["Tags"])
