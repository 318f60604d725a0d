"""What of a lease stands in a region, and what only looks like it.

Tags are copied: by "launch more like this", by a template, with a restored backup. A machine is ours
when it shows the token of our request, or when one of the lease's own schedules names it, which are
armed with exactly the machines that Amazon answered that request with. Whether a spot machine shows the
token its page does not say, so one without schedules that would tell, one for each machine of the lease,
is ours by its tags: a machine of ours that nobody ends is worse. A volume is whose machine has it.

However many leases stand, lists are asked for by pages, and a schedule itself where they leave something open alone.
https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_Instance.html
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from sojourn.clouds.aws.clients import Clients
from sojourn.clouds.aws.errors import code_of, translated
from sojourn.clouds.aws.foundation import SCHEDULE_GROUP
from sojourn.errors import SpecError
from sojourn.names import LeaseName
from sojourn.providers.ec2 import placement, request, responses
from sojourn.renting import Lease, Lookalike, Machine, Part
from sojourn.store.storage import batched
from sojourn.waiting import Clock

Instance = dict[str, Any]
Schedule = dict[str, Any]
Filters = list[dict[str, Any]]
NAMED_AT_ONCE = 200  # values of a filter; of more Amazon says FilterLimitExceeded
APART = 10  # leases whose schedules are asked for by the lease's name; of more all are listed, a hundred by a page
INSTANCES_BY_PAGE, VOLUMES_BY_PAGE = 1000, 500
TAGGED: Filters = [{"Name": "tag-key", "Values": [f"{request.TAG}lease"]}]
STANDING = {
    "Name": "instance-state-name",
    "Values": ["pending", "running", "shutting-down", "stopping", "stopped"],
}


@dataclass
class _Shown:
    """What a region's lists show of one lease."""

    name: str
    instances: list[Instance] = field(default_factory=list)
    schedules: list[Schedule] = field(default_factory=list)  # as a list shows them, or whole, with what they end
    volumes: list[dict[str, Any]] = field(default_factory=list)
    groups: list[placement.Group] = field(default_factory=list)
    copies: list[Instance] = field(default_factory=list)  # which carry its tags, and are not of it

    @property
    def tokenless(self) -> list[Instance]:
        """Machines that do not show the token of its request."""
        return [one for one in self.instances if one.get("ClientToken") != self.name]

    @property
    def is_over(self) -> bool:
        """Whether no machine of it stands; while one does, what belongs to it does too, and is not asked for."""
        return not any(map(_stands, self.instances))

    def is_told(self) -> bool:
        """Whether the lists alone tell whose its machines are: where each has a timer that was armed after its start.

        A copy is made of what runs, whose timer was armed by then. Earlier versions had one timer for all machines.
        """
        if not self.tokenless:
            return True
        if any(not _is_spot(one) for one in self.tokenless) or self.name in (one["Name"] for one in self.schedules):
            return False
        nodes = _nodes(self.tokenless[0])
        if len(self.instances) > nodes or len(self.schedules) < nodes:
            return len(self.instances) <= nodes
        armed_at = max(one["CreationDate"] for one in self.schedules)
        return all(one["LaunchTime"] <= armed_at for one in self.tokenless)

    def part(self) -> None:
        """Put its copies apart, by schedules that are whole.

        A copy is younger than its model, and a lease has no more machines than it was made with. So where not all of
        its timers were armed, or some are gone by now, the oldest spot machines are of it by their tags.
        """
        armed, shown = responses.armed(self.schedules), len(self.instances) - len(self.tokenless)
        oldest = sorted(filter(_is_spot, self.tokenless), key=lambda one: (one["LaunchTime"], one["InstanceId"]))
        ours = {one["InstanceId"] for one in oldest[: max(0, _nodes(oldest[0]) - shown)]} if oldest else set()
        if oldest and len(armed) >= _nodes(oldest[0]):
            ours = set()
        self.copies = [one for one in self.tokenless if one["InstanceId"] not in armed | ours]
        self.instances = [one for one in self.instances if one not in self.copies]


class Inventory:
    """One account, read region by region."""

    def __init__(self, clients: Clients, clock: Clock) -> None:
        self.clients = clients
        self.clock = clock

    def lease(self, name: str, region: str) -> Lease | None:
        """The lease of this name as it stands in a region; None where nothing of it does."""
        return self.named([name], region).get(name)

    def named(self, names: Sequence[str], region: str) -> dict[str, Lease]:
        """Those of these leases of which anything stands."""
        found = {name: _Shown(name) for name in sorted(names)}
        for filters in _named(found):
            for instance in self._instances(region, filters):
                found[_tags(instance)["lease"]].instances.append(instance)
        doubtful = [one for one in found.values() if one.tokenless]
        self._time(doubtful, region)
        self._complete(doubtful, region)
        for one in doubtful:
            one.part()
        self._add_parts([one for one in found.values() if one.is_over], region)
        leases = ((name, self._read(one)) for name, one in found.items())
        return {name: lease for name, lease in leases if lease is not None}

    def everything(self, region: str) -> tuple[list[Lease], list[Lookalike]]:
        """Every lease of which something stands in a region, and machines that only carry the tags of one.

        A copy of a spot machine that was made before its model's timer was armed may pass for ours here: whoever ends
        a lease asks for it by its name.
        """
        lists: list[Callable[[], Any]] = [
            lambda: list(self._instances(region, TAGGED)),
            lambda: self._volumes(TAGGED, region),
            lambda: placement.find(self.clients, region, TAGGED),
            lambda: self._schedules(region),
        ]
        instances, volumes, groups, schedules = self.clock.together(lists)
        found = _by_lease(instances, volumes, groups, schedules)
        doubtful = [one for one in found.values() if not one.is_told()]
        self._complete(doubtful, region)
        for one in doubtful:
            one.part()
        over = [one for one in found.values() if one.is_over]
        self._complete(over, region, self._is_young)
        self._drop_foreign_volumes(over, region)
        # What nothing carries but machines that are gone, or are not of it, is gone as well.
        standing = (one for one in found.values() if not one.is_over or one.schedules or one.volumes or one.groups)
        leases = [lease for lease in map(self._read, standing) if lease is not None]
        copies = [(one, copy) for one in found.values() for copy in one.copies if _stands(copy)]
        return leases, [
            Lookalike(identity=copy["InstanceId"], lease=one.name, project=_tags(copy).get("project", ""))
            for one, copy in copies
        ]

    def schedules(self, name: str, region: str) -> list[Schedule]:
        """Those that end a lease's machines, one for each."""
        shown = _Shown(name)
        self._time([shown], region)
        self._complete([shown], region)
        return shown.schedules

    # -- leases by their names --

    def _add_parts(self, over: list[_Shown], region: str) -> None:
        """What is left beside machines that are gone, or not shown yet."""
        self._time([one for one in over if not one.schedules], region)
        self._complete(over, region, self._is_young)
        found = {one.name: one for one in over}
        for filters in _named(found):
            for volume in self._volumes(filters, region):
                found[_tags(volume)["lease"]].volumes.append(volume)
            for group in placement.find(self.clients, region, filters):
                if group["GroupName"] == _tags(group)["lease"]:
                    found[group["GroupName"]].groups.append(group)
        self._drop_foreign_volumes(over, region)

    def _time(self, shown: Sequence[_Shown], region: str) -> None:
        """Add the schedules of these leases, as lists show them."""
        apart = [one.name for one in shown]
        if len(shown) > APART:
            listed = self._schedules(region)
        else:
            listed = [one for some in self._each(self._schedules, region, apart) for one in some]
        by_lease = _by_lease(schedules=listed)
        # Amazon does not promise that a list shows at once what was made: the first is asked for by its name. Of many
        # only where no machine is shown either: what was missed ends itself, and the next sweep sees it.
        unlisted = [one for one in shown if one.name not in by_lease and (len(shown) <= APART or not one.instances)]
        firsts = self._each(self._schedule, region, [f"{one.name}-n0" for one in unlisted])
        for one in shown:
            one.schedules = by_lease[one.name].schedules if one.name in by_lease else []
        for one, first in zip(unlisted, firsts, strict=True):
            one.schedules = [first] if first is not None else []

    def _complete(
        self, shown: Iterable[_Shown], region: str, which: Callable[[Schedule], bool] = lambda _: True
    ) -> None:
        """Ask for those schedules themselves, whose machines no list tells; what is gone by now is left out."""
        wanted = [
            (one, schedule)
            for one in shown
            for schedule in one.schedules
            if which(schedule) and "Input" not in schedule.get("Target", {})
        ]
        whole = self._each(self._schedule, region, [schedule["Name"] for _, schedule in wanted])
        for (one, schedule), found in zip(wanted, whole, strict=True):
            at = one.schedules.index(schedule)
            one.schedules[at : at + 1] = [] if found is None else [found]

    def _is_young(self, schedule: Schedule) -> bool:
        """Whether its machine may not be shown yet, by the clock that dated the schedule."""
        return responses.is_young(schedule, self.clients.now() or self.clock.now())

    def _each(self, ask: Callable[[str, str], Any], region: str, names: Iterable[str]) -> list[Any]:
        return self.clock.together([partial(ask, region, name) for name in names])

    def _drop_foreign_volumes(self, over: Sequence[_Shown], region: str) -> None:
        """Take away what carries the tags and somebody else's machine has."""
        ours = {machine["InstanceId"] for one in over for machine in one.instances}
        unknown = sorted({holder for one in over for volume in one.volumes for holder in _holders(volume)} - ours)
        machines: dict[str, Instance] = {}
        for some in batched(unknown, NAMED_AT_ONCE):
            wanted: Filters = [{"Name": "instance-id", "Values": some}]
            machines |= {machine["InstanceId"]: machine for machine in self._instances(region, wanted)}
        for one in over:
            holders = {*machines} & {holder for volume in one.volumes for holder in _holders(volume)}
            if holders:
                self._complete([one], region)
                around = _Shown(one.name, [*one.instances, *(machines[holder] for holder in holders)], one.schedules)
                around.part()
                theirs = {machine["InstanceId"] for machine in around.copies}
                one.volumes = [volume for volume in one.volumes if not _holders(volume) & theirs]

    def _read(self, shown: _Shown) -> Lease | None:
        """A lease in our words; None where nothing of it stands, nor ended a while ago."""
        name, instances = shown.name, shown.instances
        parts: list[Part] = []
        unseen: list[str] = []
        if shown.is_over:
            volumes = sorted(shown.volumes, key=lambda one: str(one["VolumeId"]))
            parts = [
                *responses.volume_parts(name, volumes),
                *map(responses.schedule_part, shown.schedules),
                *map(responses.group_part, shown.groups),
            ]
            young = list(filter(self._is_young, shown.schedules))
            unseen = sorted(responses.armed(young) - {one["InstanceId"] for one in instances})
        if not instances and not parts:
            return None
        tagged = [*instances, *shown.groups, *shown.volumes]
        tags = _tags(tagged[0]) if tagged else {}
        parsed = LeaseName.parse(name)
        assert parsed is not None
        numbers = responses.numbered(instances, unseen)
        machines = [responses.machine(parsed.machine(numbers[one["InstanceId"]]), one) for one in instances]
        machines += [Machine(name=parsed.machine(numbers[one]), state="starting", identity=one) for one in unseen]
        return Lease(
            name=name,
            project=tags.get("project", ""),
            run=parsed.run,
            attempt=parsed.attempt,
            deadline_at=_number(tags, "deadline"),
            grace_s=_number(tags, "grace"),
            machines=tuple(sorted(machines, key=lambda one: LeaseName.node_of(one.name))),
            parts=tuple(parts),
            store=tags.get("store"),
        )

    # -- what Amazon answers --

    def _instances(self, region: str, filters: Filters) -> Iterator[Instance]:
        client = self.clients.client("ec2", region)
        with translated(f"look for machines in {region}"):
            for page in _paged(client, "describe_instances", INSTANCES_BY_PAGE, Filters=filters):
                for reservation in page["Reservations"]:
                    yield from reservation["Instances"]

    def _volumes(self, filters: Filters, region: str) -> list[dict[str, Any]]:
        client = self.clients.client("ec2", region)
        with translated(f"look for volumes in {region}"):
            pages = _paged(client, "describe_volumes", VOLUMES_BY_PAGE, Filters=filters)
            return [one for page in pages for one in page["Volumes"]]

    def _schedule(self, region: str, name: str) -> Schedule | None:
        try:
            with translated(f"look for the schedule of {name}"):
                found: Schedule = self.clients.client("scheduler", region).get_schedule(
                    Name=name, GroupName=SCHEDULE_GROUP
                )
        except SpecError as error:
            if code_of(error.__cause__ or error) != "ResourceNotFoundException":
                raise
            return None
        return found

    def _schedules(self, region: str, prefix: str | None = None) -> list[Schedule]:
        """Ours as a list shows them, all of them or those whose names begin with the prefix."""
        client = self.clients.client("scheduler", region)
        below = {"NamePrefix": prefix} if prefix else {}
        with translated(f"look for what is left in {region}"):
            try:
                pages = client.get_paginator("list_schedules").paginate(GroupName=SCHEDULE_GROUP, **below)
                return [one for page in pages for one in page["Schedules"]]
            except client.exceptions.ResourceNotFoundException:
                return []  # nothing was ever set up in this region


def _paged(client: Any, action: str, size: int, **what: Any) -> Iterator[dict[str, Any]]:
    pages: Iterator[dict[str, Any]] = client.get_paginator(action).paginate(**what, PaginationConfig={"PageSize": size})
    return pages


def _named(names: Iterable[str]) -> Iterator[Filters]:
    """Filters for these leases, as many values in each as Amazon takes."""
    for some in batched(names, NAMED_AT_ONCE):
        yield [{"Name": f"tag:{request.TAG}lease", "Values": some}]


def _by_lease(
    instances: Iterable[Instance] = (),
    volumes: Iterable[dict[str, Any]] = (),
    groups: Iterable[placement.Group] = (),
    schedules: Iterable[Schedule] = (),
) -> dict[str, _Shown]:
    """What lists show, by the leases whose names it carries."""
    found: dict[str, _Shown] = {}

    def of(name: str) -> _Shown:
        return found.setdefault(name, _Shown(name))

    for instance in instances:
        if is_lease(name := _tags(instance).get("lease", "")):
            of(name).instances.append(instance)
    for volume in volumes:
        if is_lease(name := _tags(volume).get("lease", "")):
            of(name).volumes.append(volume)
    for group in groups:
        if is_lease(name := _tags(group).get("lease", "")) and group["GroupName"] == name:
            of(name).groups.append(group)
    for schedule in schedules:
        if (parsed := LeaseName.parse(schedule["Name"])) is not None:
            of(str(parsed)).schedules.append(schedule)
    return dict(sorted(found.items()))


def _is_spot(instance: Instance) -> bool:
    return instance.get("InstanceLifecycle") == "spot"


def _stands(instance: Instance) -> bool:
    return bool(instance["State"]["Name"] != "terminated")


def _holders(volume: dict[str, Any]) -> set[str]:
    return {by["InstanceId"] for by in volume.get("Attachments", [])}


def is_lease(word: str) -> bool:
    """Whether this is the name of a lease, as we give them."""
    parsed = LeaseName.parse(word)
    return parsed is not None and str(parsed) == word


def _tags(one: dict[str, Any]) -> dict[str, str]:
    return responses.read_tags(one.get("Tags", []))


def _nodes(instance: Instance) -> int:
    return int(_number(_tags(instance), "nodes")) or 1


def _number(tags: dict[str, str], name: str) -> float:
    """0 for what is none: a tag is whatever somebody wrote there, and must hide no other lease."""
    word = tags.get(name, "")
    return float(word) if word.isascii() and word.isdecimal() and len(word) < 16 else 0.0
