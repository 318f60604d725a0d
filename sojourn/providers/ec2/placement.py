"""The placement group of a lease whose machines must stand near each other.

Amazon puts the machines of a cluster group where the ways between them are short and wide. A
group costs nothing. It carries the name and the tags of its lease, is made just before the
machines, and can only be removed after them.
https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/placement-groups.html
"""

from __future__ import annotations

from typing import Any

from sojourn.clouds.aws.clients import Clients
from sojourn.clouds.aws.errors import code_of, translated
from sojourn.errors import SojournError
from sojourn.renting import Need

KIND = "placement group"

Group = dict[str, Any]


def is_wanted(need: Need) -> bool:
    """Whether there are machines to put near each other; one alone is near enough."""
    return need.cluster and need.nodes > 1


def creation(lease: str, tags: list[dict[str, str]]) -> dict[str, Any]:
    """The call that makes a lease's group."""
    specification = {"ResourceType": "placement-group", "Tags": tags}
    return {"GroupName": lease, "Strategy": "cluster", "TagSpecifications": [specification]}


def make(clients: Clients, region: str, call: dict[str, Any]) -> None:
    """Make the group; one of this name is this one, since a lease's name is nobody else's."""
    try:
        with translated(f"make placement group {call['GroupName']}"):
            clients.client("ec2", region).create_placement_group(**call)
    except SojournError as error:
        if code_of(error.__cause__ or error) != "InvalidPlacementGroup.Duplicate":
            raise


def find(clients: Clients, region: str, filters: list[dict[str, Any]]) -> list[Group]:
    """The groups of a region that pass these filters."""
    with translated(f"look for placement groups in {region}"):
        found: list[Group] = clients.client("ec2", region).describe_placement_groups(Filters=filters)["PlacementGroups"]
    return [one for one in found if one["State"] != "deleted"]


def unfit(clients: Clients, region: str, types: list[str]) -> frozenset[str]:
    """Those of the types that Amazon does not put into such a group."""
    filters = [{"Name": "instance-type", "Values": types}]
    with translated("ask which machines can stand near each other"):
        pages = clients.client("ec2", region).get_paginator("describe_instance_types").paginate(Filters=filters)
        found = [one for page in pages for one in page["InstanceTypes"]]
    return frozenset(
        one["InstanceType"]
        for one in found
        if "cluster" not in one.get("PlacementGroupInfo", {}).get("SupportedStrategies", [])
    )
