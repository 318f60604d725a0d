"""RunInstances as EC2 does it.

Moto ignores ClientToken and MaxCount, gives the profile to the first instance only, puts machines
without a subnet into EC2-Classic and without a group into none, leaves interfaces behind, and has
endless capacity. https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_RunInstances.html
"""

from __future__ import annotations

import base64
import json
import threading
import time
from collections import defaultdict
from datetime import UTC
from typing import Any

from moto.core.responses import ActionResult
from moto.ec2.exceptions import EC2ClientError
from moto.ec2.models.instance_types import INSTANCE_TYPES
from moto.ec2.responses import EC2Response
from moto.ec2.responses._base_response import EC2BaseResponse
from moto.ec2.utils import filter_iam_instance_profiles
from moto.iam.exceptions import NotFoundException

from clouds.aws import images
from clouds.aws.market import Place, offered, quota_code, vcpus
from clouds.aws.repairs import repair
from clouds.aws.repairs.refusals import NoCapacity
from clouds.aws.repairs.spot import open_request
from clouds.aws.world import World

USER_DATA_BYTES = 16 * 1024
TOKEN_CHARACTERS = 64

_one_at_a_time: dict[tuple[str, str], threading.Lock] = defaultdict(threading.Lock)
_room = threading.Lock()  # between counting what is free and taking it

# The replay of a token shows instances as they are now, not always as pending.
EC2BaseResponse.RESPONSE_KEY_PATH_TO_TRANSFORMER.pop("RunInstances.Reservation.Instances.Instance.State", None)


@repair(EC2Response, "run_instances")
def run_instances(world: World, response: EC2Response, original: Any) -> ActionResult:
    params = response.params
    _check_sizes(params)
    token = params.get("ClientToken")
    if not token:
        return ActionResult(_launched(world, response, original))
    asked = json.dumps({key: value for key, value in params.items() if key != "ClientToken"}, sort_keys=True)
    key = response.region, token
    with _one_at_a_time[key]:
        if key in world.launches:
            before, reservation = world.launches[key]
            if before != asked:
                raise EC2ClientError(
                    "IdempotentParameterMismatch",
                    "Arguments on this idempotent request are inconsistent with arguments used in previous request(s).",
                )
            if reservation and any(world.machines.get(one.id).state == "terminated" for one in reservation.instances):
                raise EC2ClientError(  # since January 2025; until then it answered with what had ended
                    "IdempotentInstanceTerminated",
                    "The client token you have provided is associated with a terminated instance. Please use a "
                    "different client token.",
                )
            if reservation:
                return ActionResult(reservation)
        world.launches[key] = asked, None  # a token whose request was refused is bound to it all the same
        reservation = _launched(world, response, original)
        world.launches[key] = asked, reservation
    return ActionResult(reservation)


def _check_sizes(params: dict[str, Any]) -> None:
    user_data = base64.b64decode(params.get("UserData") or "")
    if len(user_data) > USER_DATA_BYTES:
        raise EC2ClientError("InvalidParameterValue", f"User data is limited to {USER_DATA_BYTES} bytes")
    if len(params.get("ClientToken") or "") > TOKEN_CHARACTERS:
        raise EC2ClientError("InvalidParameterValue", f"ClientToken exceeds {TOKEN_CHARACTERS} characters")


def _launched(world: World, response: EC2Response, original: Any) -> Any:
    params, backend = response.params, response.ec2_backend
    market = (params.get("InstanceMarketOptions") or {}).get("MarketType") or "on-demand"
    profile = _profile(world, response)
    _check_placement_group(world, response)
    _check_image(response)
    with _room:
        place, count = _room_for(world, response, market)
        _give_addresses(response, place.zone)
        params["MinCount"] = count  # moto starts as many as this
        reservation = original().result
        for instance in reservation.instances:
            _mend(response, instance, profile)
            if market == "spot":
                # No page of Amazon's says that a spot machine shows the token of its request: here none does.
                instance.client_token = None
                # Nor that several have indexes of their own: each has a request of its own, so here each is its first.
                instance.ami_launch_index = 0
                open_request(world, response, instance)
            role = next(iter(profile.roles), None) if profile else None
            world.machines.launched(instance, backend, role.arn if role else None, market)
    return reservation


def _profile(world: World, response: EC2Response) -> Any:
    wanted = response.params.get("IamInstanceProfile")
    if not wanted:
        return None
    name, arn = wanted.get("Name"), wanted.get("Arn")
    try:
        found = filter_iam_instance_profiles(
            response.current_account,
            partition=response.partition,
            iam_instance_profile_arn=arn,
            iam_instance_profile_name=name,
        )
        made_at = found.create_date.replace(tzinfo=UTC).timestamp()
        if time.time() < made_at + world.timing.profile_known_after_s:
            raise NotFoundException("EC2 does not know it yet")
        return found
    except NotFoundException:
        field = "iamInstanceProfile.arn" if arn else "iamInstanceProfile.name"
        raise EC2ClientError(
            "InvalidParameterValue",
            f"Value ({arn or name}) for parameter {field} is invalid. Invalid IAM Instance Profile {field[19:]}",
        ) from None


def _check_placement_group(world: World, response: EC2Response) -> None:
    group = (response.params.get("Placement") or {}).get("GroupName")
    if group and (response.region, group) not in world.placement_groups:
        raise EC2ClientError("InvalidPlacementGroup.Unknown", f"The Placement Group '{group}' is unknown.")
    kind = response.params.get("InstanceType", "m1.small")
    can = INSTANCE_TYPES.get(kind, {}).get("PlacementGroupInfo", {}).get("SupportedStrategies", [])
    if group and world.placement_groups[response.region, group]["Strategy"] not in can:
        message = f"Cluster placement groups are not supported by the '{kind}' instance type."
        raise EC2ClientError("InvalidParameterCombination", message)


def _check_image(response: EC2Response) -> None:
    """The type must exist, the image must run on it, and the disk must hold the image."""
    params = response.params
    instance_type = params.get("InstanceType", "m1.small")
    known = INSTANCE_TYPES.get(instance_type)
    if known is None:
        raise EC2ClientError("InvalidParameterValue", f"Invalid value '{instance_type}' for InstanceType.")
    image = images.by_id(response.region, params.get("ImageId", ""))
    if image is None:
        return  # moto says so
    architectures = known["ProcessorInfo"]["SupportedArchitectures"]
    if image.architecture not in architectures:
        raise EC2ClientError(
            "InvalidParameterValue",
            f"The architecture '{','.join(architectures)}' of the specified instance type does not match the "
            f"architecture '{image.architecture}' of the specified AMI.",
        )
    for mapping in params.get("BlockDeviceMappings", []):
        size = (mapping.get("Ebs") or {}).get("VolumeSize")
        if mapping.get("DeviceName") == image.root_device and size is not None and int(size) < image.root_gb:
            raise EC2ClientError(
                "InvalidBlockDeviceMapping",
                f"Volume of size {size}GB is smaller than snapshot of the image, expect size>= {image.root_gb}GB",
            )


def _room_for(world: World, response: EC2Response, market: str) -> tuple[Place, int]:
    """Where they go and how many, between MinCount and MaxCount. Raises as EC2 when there is no room."""
    params = response.params
    fewest, most = int(params.get("MinCount") or 1), int(params.get("MaxCount") or 1)
    instance_type = params.get("InstanceType", "m1.small")
    taken = world.taken()
    places = [Place(instance_type, zone, market) for zone in _zones(response)]
    sold = [place for place in places if offered(place.type, place.zone)]
    if not sold:
        raise EC2ClientError(
            "Unsupported",
            f"Your requested instance type ({instance_type}) is not supported in your requested Availability Zone "
            f"({places[0].zone}).",
        )
    here = [place for region, place in taken if region == response.region]
    allowed = world.market.vcpus_left(response.region, sold[0], here) // vcpus(instance_type)
    if allowed < fewest:
        raise _over_quota(world, response.region, sold[0])
    everywhere = [place for _, place in taken]
    best = max(sold, key=lambda place: min(most, world.market.free(place, everywhere)))
    free = min(most, world.market.free(best, everywhere), allowed)
    if free < fewest:
        raise NoCapacity(best)
    return best, int(free)


def _zones(response: EC2Response) -> list[str]:
    """The zones that the request leaves open."""
    params, backend = response.params, response.ec2_backend
    interfaces = params.get("NetworkInterfaces") or [{}]
    subnet = params.get("SubnetId") or interfaces[0].get("SubnetId")
    if subnet:
        return [backend.get_subnet(subnet).availability_zone]
    asked = (params.get("Placement") or {}).get("AvailabilityZone")
    return [asked] if asked else sorted(backend.get_default_subnets())


def _over_quota(world: World, region: str, place: Place) -> EC2ClientError:
    if place.market == "spot":
        return EC2ClientError("MaxSpotInstanceCountExceeded", "Max spot instance count exceeded")
    limit = int(world.market.quota(region, quota_code(place) or ""))
    return EC2ClientError(
        "VcpuLimitExceeded",
        f"You have requested more vCPU capacity than your current vCPU limit of {limit} allows for the instance "
        "bucket that the specified instance type belongs to. Please visit "
        "http://aws.amazon.com/contact-us/ec2-request to request an adjustment to this limit.",
    )


def _give_addresses(response: EC2Response, zone: str) -> None:
    """The default subnet of the zone and the VPC's default group, where the request names none."""
    params, backend = response.params, response.ec2_backend
    interfaces = params.get("NetworkInterfaces")
    if interfaces:
        where = interfaces[0]
        where.setdefault("Groups", params.pop("SecurityGroupIds", None) or [])
        groups = where["Groups"]
    else:
        where, groups = params, params.get("SecurityGroupIds") or params.get("SecurityGroups")
    where.setdefault("SubnetId", backend.get_default_subnets()[zone].id)
    if not groups:
        vpc = backend.get_subnet(where["SubnetId"]).vpc_id
        default = backend.get_security_group_from_name("default", vpc)
        where["Groups" if interfaces else "SecurityGroupIds"] = [default.id]


def _mend(response: EC2Response, instance: Any, profile: Any) -> None:
    """What moto leaves out of the instance that it has made."""
    params, backend = response.params, response.ec2_backend
    instance.placement.group_name = (params.get("Placement") or {}).get("GroupName") or ""
    if profile:
        instance.iam_instance_profile = {"Arn": profile.arn, "Id": profile.id}
        if instance.id not in backend.iam_instance_profile_associations:
            backend.associate_iam_instance_profile(instance_id=instance.id, iam_instance_profile_arn=profile.arn)
    interfaces = params.get("NetworkInterfaces", [])
    for index, interface in instance.nics.items():
        asked: dict[str, Any] = next((one for one in interfaces if one.get("DeviceIndex") == index), {})
        interface.delete_on_termination = asked.get("DeleteOnTermination") is not False
        interface.add_tags(response._parse_tag_specification().get("network-interface", {}))
    _mend_root(response, instance)


def _mend_root(response: EC2Response, instance: Any) -> None:
    """Every machine has the root disk of its image, which goes with the machine unless told to stay."""
    params, backend = response.params, response.ec2_backend
    image = images.by_id(response.region, params.get("ImageId", ""))
    asked: dict[str, dict[str, Any]] = {
        one.get("DeviceName"): one.get("Ebs") or {} for one in params.get("BlockDeviceMappings", [])
    }
    root = image.root_device if image else instance.root_device_name
    if not asked and image:
        instance.teardown_defaults()
        instance.block_device_mapping.clear()
    if root not in instance.block_device_mapping and image:
        instance.add_block_device(image.root_gb, root, None, False, True, None, "gp3")
        volume = backend.get_volume(instance.block_device_mapping[root].volume_id)
        volume.add_tags(response._parse_tag_specification().get("volume", {}))
    if root in instance.block_device_mapping and "DeleteOnTermination" not in asked.get(root, {}):
        instance.block_device_mapping[root].delete_on_termination = True
