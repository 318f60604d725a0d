"""Spot: a request behind each instance, and prices that differ.

Moto marks an instance as spot, but no request belongs to it, and every price is 0.00001 of 2006.
"""

from __future__ import annotations

import secrets
import time
from datetime import UTC, datetime
from typing import Any

from moto.core.responses import ActionResult
from moto.ec2.exceptions import EC2ClientError
from moto.ec2.models.instance_types import INSTANCE_TYPE_OFFERINGS
from moto.ec2.responses import EC2Response

from clouds.aws.machines import SPOT_TAKEN, Machine
from clouds.aws.repairs import repair
from clouds.aws.world import World

PAGE = 1000
_OTHER_SYSTEMS = ("Windows", "Red Hat", "SUSE")


def open_request(world: World, response: EC2Response, instance: Any) -> None:
    """Give the instance a spot request. Raises when the highest price offered is too low."""
    options = (response.params.get("InstanceMarketOptions") or {}).get("SpotOptions") or {}
    now = world.market.spot_price(instance.instance_type, instance.placement.zone, time.time())
    if now is not None and "MaxPrice" in options and float(options["MaxPrice"]) < now:
        instance.terminate()
        raise EC2ClientError(
            "SpotMaxPriceTooLow",
            f"Your Spot request price of {options['MaxPrice']} is lower than the minimum required Spot request "
            f"fulfillment price of {now}.",
        )
    request = f"sir-{secrets.token_hex(4)}"
    instance.spot_instance_request_id = request
    world.spot_requests[request] = {
        "SpotInstanceRequestId": request,
        "InstanceId": instance.id,
        "Type": options.get("SpotInstanceType") or "one-time",
        "SpotPrice": options.get("MaxPrice"),
        "CreateTime": datetime.now(UTC),
        "InstanceInterruptionBehavior": options.get("InstanceInterruptionBehavior") or "terminate",
        "LaunchedAvailabilityZone": instance.placement.zone,
        "ProductDescription": "Linux/UNIX",
        "Tags": [
            {"Key": key, "Value": value}
            for key, value in response._parse_tag_specification().get("spot-instances-request", {}).items()
        ],
    }


@repair(EC2Response, "describe_spot_instance_requests")
def describe_spot_instance_requests(world: World, response: EC2Response, original: Any) -> ActionResult:
    wanted = response.params.get("SpotInstanceRequestIds") or list(world.spot_requests)
    unknown = [one for one in wanted if one not in world.spot_requests]
    if unknown:
        raise EC2ClientError(
            "InvalidSpotInstanceRequestID.NotFound", f"The spot instance request ID '{unknown[0]}' does not exist"
        )
    rows = [
        _as_it_is(world, world.spot_requests[one])
        for one in wanted
        if world.machines.get(world.spot_requests[one]["InstanceId"]).region == response.region
    ]
    filters = response._filters_from_querystring()
    return ActionResult({"SpotInstanceRequests": [row for row in rows if _passes(row, filters)]})


def _as_it_is(world: World, request: dict[str, Any]) -> dict[str, Any]:
    machine = world.machines.get(request["InstanceId"])
    state, code, message = _status(machine)
    status = {"Code": code, "Message": message, "UpdateTime": datetime.now(UTC)}
    return {**request, "State": state, "Status": status}


def _status(machine: Machine) -> tuple[str, str, str]:
    """https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/spot-request-status.html"""
    if machine.reason == SPOT_TAKEN:
        return "closed", "instance-terminated-no-capacity", "Your Spot instance was terminated: no capacity."
    if machine.state in ("shutting-down", "terminated"):
        return "closed", "instance-terminated-by-user", "Spot Instance terminated due to user-initiated termination."
    if machine.notice_at:
        return "active", "marked-for-termination", "Your Spot Instance is marked for termination."
    return "active", "fulfilled", "Your spot request is fulfilled."


def _passes(row: dict[str, Any], filters: dict[str, Any]) -> bool:
    tags = {f"tag:{tag['Key']}": tag["Value"] for tag in row["Tags"]}
    known = {
        "state": row["State"],
        "status-code": row["Status"]["Code"],
        "instance-id": row["InstanceId"],
        "spot-instance-request-id": row["SpotInstanceRequestId"],
        **tags,
    }
    for name, values in filters.items():
        if name not in known and not name.startswith("tag:"):
            raise EC2ClientError("InvalidParameterValue", f"The filter '{name}' is invalid")
        if known.get(name) not in values:
            return False
    return True


@repair(EC2Response, "cancel_spot_instance_requests")
def cancel_spot_instance_requests(world: World, response: EC2Response, original: Any) -> ActionResult:
    wanted = response.params.get("SpotInstanceRequestIds", [])
    return ActionResult(
        {"CancelledSpotInstanceRequests": [{"SpotInstanceRequestId": one, "State": "cancelled"} for one in wanted]}
    )


@repair(EC2Response, "describe_spot_price_history")
def describe_spot_price_history(world: World, response: EC2Response, original: Any) -> ActionResult:
    params, filters = response.params, response._filters_from_querystring()
    types = set(params.get("InstanceTypes") or filters.get("instance-type") or [])
    zones = set(filters.get("availability-zone") or [])
    if params.get("AvailabilityZone"):
        zones.add(params["AvailabilityZone"])
    systems = params.get("ProductDescriptions") or filters.get("product-description") or ["Linux/UNIX"]
    end = _seconds(params.get("EndTime"), time.time())
    start = _seconds(params.get("StartTime"), end - 24 * 3600)
    rows = [
        {
            "InstanceType": offering["InstanceType"],
            "AvailabilityZone": offering["Location"],
            "ProductDescription": system,
            "SpotPrice": f"{dollars:.6f}",
            "Timestamp": datetime.fromtimestamp(at, UTC),
        }
        for offering in INSTANCE_TYPE_OFFERINGS["availability-zone"].get(response.region, [])
        if (not types or offering["InstanceType"] in types) and (not zones or offering["Location"] in zones)
        for system in systems
        if not system.startswith(_OTHER_SYSTEMS)
        for at, dollars in world.market.spot_history(offering["InstanceType"], offering["Location"], start, end)
    ]
    first = int(params.get("NextToken") or 0)
    size = int(params.get("MaxResults") or PAGE)
    more = str(first + size) if first + size < len(rows) else ""
    return ActionResult({"SpotPriceHistory": rows[first : first + size], "NextToken": more})


def _seconds(value: Any, otherwise: float) -> float:
    if value is None:
        return otherwise
    when = value if isinstance(value, datetime) else datetime.fromisoformat(str(value).replace("Z", "+00:00"))
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
