"""Security groups and placement groups.

Moto deletes a security group that machines use, gives the default group no rule of its own, and
has no placement groups at all.
"""

from __future__ import annotations

import secrets
from typing import Any

from moto.core.responses import ActionResult, EmptyResult
from moto.ec2.exceptions import DependencyViolationError, EC2ClientError
from moto.ec2.models.security_groups import SecurityGroupBackend, SecurityGroupRule
from moto.ec2.responses import EC2Response

from clouds.aws.repairs import repair
from clouds.aws.world import World


@repair(SecurityGroupBackend, "create_security_group")
def create_security_group(world: World, backend: Any, original: Any, name: str, *args: Any, **kwargs: Any) -> Any:
    """The default group of a VPC lets its own members in."""
    group = original(name, *args, **kwargs)
    if kwargs.get("is_default") or name == "default":
        rule = SecurityGroupRule(backend, "-1", group.id, None, None, None, {"GroupId": group.id})
        group.ingress_rules.append(rule)
    return group


@repair(EC2Response, "delete_security_group")
def delete_security_group(world: World, response: EC2Response, original: Any) -> Any:
    group = response.params.get("GroupId") or _id_by_name(response)
    interfaces = [nic for machine in world.machines.living() for nic in machine.instance.nics.values()]
    interfaces += response.ec2_backend.enis.values()
    if any(used.id == group for nic in interfaces for used in nic.group_set):
        raise DependencyViolationError(f"resource {group} has a dependent object")
    return original()


def _id_by_name(response: EC2Response) -> str | None:
    group = response.ec2_backend.get_security_group_from_name(response.params.get("GroupName"))
    return group.id if group else None


@repair(EC2Response, "create_placement_group")
def create_placement_group(world: World, response: EC2Response, original: Any) -> ActionResult:
    response.error_on_dryrun()
    name = response.params["GroupName"]
    key = response.region, name
    if key in world.placement_groups:
        raise EC2ClientError("InvalidPlacementGroup.Duplicate", f"The Placement Group '{name}' already exists.")
    group_id = f"pg-{secrets.token_hex(8)}"
    tags = response._parse_tag_specification().get("placement-group", {})
    group = {
        "GroupName": name,
        "GroupId": group_id,
        "State": "available",
        "Strategy": response.params.get("Strategy") or "cluster",
        "GroupArn": f"arn:aws:ec2:{response.region}:{response.current_account}:placement-group/{name}",
        "Tags": [{"Key": key, "Value": value} for key, value in tags.items()],
    }
    world.placement_groups[key] = group
    response.ec2_backend.tags[group["GroupArn"]] = dict(tags)  # policies ask for them there
    return ActionResult({"PlacementGroup": group})


@repair(EC2Response, "describe_placement_groups")
def describe_placement_groups(world: World, response: EC2Response, original: Any) -> ActionResult:
    here = {name: group for (region, name), group in world.placement_groups.items() if region == response.region}
    for name in response.params.get("GroupNames", []):
        if name not in here:
            raise _unknown(name)
    wanted = response.params.get("GroupNames") or list(here)
    filters = response._filters_from_querystring()
    return ActionResult({"PlacementGroups": [here[name] for name in wanted if _passes(here[name], filters)]})


def _passes(group: dict[str, Any], filters: dict[str, Any]) -> bool:
    known = {"group-name": group["GroupName"], "state": group["State"], "strategy": group["Strategy"]}
    known.update({f"tag:{tag['Key']}": tag["Value"] for tag in group["Tags"]})
    keys = [tag["Key"] for tag in group["Tags"]]
    return all(
        any(key in keys for key in values) if name == "tag-key" else known.get(name) in values
        for name, values in filters.items()
    )


@repair(EC2Response, "delete_placement_group")
def delete_placement_group(world: World, response: EC2Response, original: Any) -> EmptyResult:
    name = response.params["GroupName"]
    if (response.region, name) not in world.placement_groups:
        raise _unknown(name)
    if any(
        machine.instance.placement.group_name == name and machine.region == response.region
        for machine in world.machines.living()
    ):
        raise EC2ClientError(
            "InvalidPlacementGroup.InUse", f"The placement group '{name}' is in use and may not be deleted."
        )
    del world.placement_groups[response.region, name]
    return EmptyResult()


def _unknown(name: str) -> EC2ClientError:
    return EC2ClientError("InvalidPlacementGroup.Unknown", f"The Placement Group '{name}' is unknown.")
