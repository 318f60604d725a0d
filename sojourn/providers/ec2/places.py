"""From what a region answered to its offers, zone by zone and market by market; nothing is asked here.

What makes a machine impossible somewhere (no subnet, no room in the quota, no price) is kept
beside the offers, so that a plan can say why a place is missing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

from sojourn.errors import QuotaError, SojournError, SpecError
from sojourn.providers.catalogue import GB, MachineType
from sojourn.providers.ec2 import gateway, placement, prices, quotas
from sojourn.providers.ec2.images import GIB, Image
from sojourn.providers.ec2.quotas import Limit
from sojourn.providers.ec2.survey import Region, markets
from sojourn.renting import Market, Need, Offer

PROVIDER = "aws"
ROOM_GIB = 50  # beside what the image takes, unless the need says how large the disk is
_SHOWN: dict[Market, str] = {"spot": "as spot", "on-demand": "on demand"}


class Place(NamedTuple):
    """A region or a zone that was looked at: its offer, or a problem with it."""

    name: str
    offer: Offer | None = None
    problem: SojournError | None = None


class _Kind(NamedTuple):
    """One type with its image on one market."""

    machine: MachineType
    image: Image
    market: Market


def look(need: Need, region: Region, types: list[MachineType]) -> Iterator[Place]:
    """Every zone of a region, for every type, on every market that the need allows."""
    for remark in _remarks(need, region):
        yield Place(region.name, problem=SojournError(remark))
    if isinstance(region.ours, SpecError):
        yield Place(region.name, problem=region.ours)
        return
    if not region.subnets:
        hint = f"make one: aws ec2 create-default-vpc --region {region.name}"
        yield Place(region.name, problem=SpecError("there is no default subnet to put a machine into", hint=hint))
        return
    for machine in types:
        if machine.name in region.apart:
            hint = "leave it out: --no-cluster, or take machines that can, like m6i or g6"
            what = f"cluster: Amazon does not put {machine.name} into a cluster placement group"
            yield Place(region.name, problem=SpecError(what, hint=hint))
            continue
        image = region.images[machine.name]
        if isinstance(image, SpecError):
            yield Place(region.name, problem=image)
            continue
        for market in markets(need):
            yield from _zones(need, region, _Kind(machine, image, market))


def _remarks(need: Need, region: Region) -> Iterator[str]:
    yield from region.remarks
    if need.network == "none" and not all(one.inward for one in region.subnets.values()):
        service = f"com.amazonaws.{region.name}.s3"
        yield (
            "network: machines keep a public address, which nobody can reach and without which they do not reach the "
            f"store; a gateway endpoint for {service} in the route table of the default subnets takes its place, free"
        )
    for url, home in region.data.items():
        if price := prices.transfer(home, region.name):
            yield f"{url} is in {home}: what a machine in {region.name} reads of it costs about ${price:.2f} a GB"


def _zones(need: Need, region: Region, kind: _Kind) -> Iterator[Place]:
    machine = kind.machine
    limit = _limit(region, kind)
    if not region.zones[machine.name]:
        where = f"--filters Name=instance-type,Values={machine.name} --region us-east-1"
        hint = f"look elsewhere: aws ec2 describe-instance-type-offerings {where}"
        yield Place(region.name, problem=SpecError(f"there is no {machine.name}", hint=hint))
    elif limit and limit.left < machine.cpus * need.nodes:
        yield Place(region.name, problem=_short(need, region, kind, limit))
    else:
        for zone in region.zones[machine.name]:
            yield _zone(need, region, kind, zone)


def _zone(need: Need, region: Region, kind: _Kind, zone: str) -> Place:
    subnet = region.subnets.get(zone)
    price, note = _price(region, kind, zone)
    problem = None
    if subnet is None:
        problem = "there is no default subnet"
    elif subnet.addresses < need.nodes:
        problem = f"{subnet.addresses} addresses are left in the default subnet"
    elif price is None:
        problem = f"{kind.machine.name} {_SHOWN[kind.market]}: {note}"
    if problem or price is None:
        return Place(zone, problem=SojournError(str(problem)))
    return Place(zone, _offer(need, region, kind, zone, price, note))


def _offer(need: Need, region: Region, kind: _Kind, zone: str, price: float, note: str | None) -> Offer:
    assert isinstance(region.ours, dict)
    machine, image = kind.machine, kind.image
    disk, limit = _disk_gib(need, image), _limit(region, kind)
    near = placement.is_wanted(need)
    public = not (region.subnets[zone].inward and gateway.are_enough(need, region.name, region.data))
    return Offer(
        provider=PROVIDER,
        machine=machine.name,
        place=zone,
        region=region.name,
        market=kind.market,
        price=round(price + prices.besides(disk, address=public), 6),
        price_note=note,
        cpus=machine.cpus,
        memory=machine.memory,
        gpus=(str(machine.gpu),) * machine.gpus,
        gpu_memory=machine.gpu_memory,
        architecture=machine.architecture,
        python=image.python,
        transfer=max((prices.transfer(home, region.name) for home in region.data.values()), default=0.0),
        makes=(placement.KIND,) if near else (),
        quota=f"{machine.cpus * need.nodes} of {limit.left} vCPUs" if limit else None,
        details={
            "image": image.id,
            "image_name": image.name,
            "root_device": image.root_device,
            "disk": disk,
            "subnet": region.subnets[zone].id,
            **({"cluster": True} if near else {}),
            **({} if public else {"address": False}),
            **region.ours,
        },
    )


def _limit(region: Region, kind: _Kind) -> Limit | None:
    return region.limits.get(quotas.code(kind.machine.name, kind.market) or "")


def _disk_gib(need: Need, image: Image) -> int:
    if need.disk is None:
        return image.root_gib + ROOM_GIB
    disk = math.ceil(need.disk / GIB)
    if disk < image.root_gib:
        least = math.ceil(image.root_gib * GIB / GB)
        raise SpecError(
            f"disk: {need.disk / GB:.0f}GB is smaller than the image {image.name or image.id}, which has {least}GB",
            hint=f"write at least --disk {least}GB, more for what the script writes, or leave it out",
        )
    return disk


def _price(region: Region, kind: _Kind, zone: str) -> tuple[float | None, str | None]:
    """Dollars an hour for the instance alone, and why that is an estimate or not known."""
    machine = kind.machine
    if kind.market == "spot" and region.spot is not None:
        price = region.spot.get((machine.name, zone))
        return price, None if price else "nobody offers it there"
    listed = region.on_demand.get(machine.name)
    price, note = (listed, None) if listed else (machine.price, f"that of {prices.HOME} in {machine.priced}")
    if price is None:
        return None, "its price is not known without the right pricing:GetProducts"
    if kind.market == "spot":
        return price, "that on demand, which spot never exceeds"
    return price, note


def _short(need: Need, region: Region, kind: _Kind, limit: Limit) -> QuotaError:
    wanted = kind.machine.cpus * need.nodes
    used = f", {limit.used} of them in use" if limit.used else ""
    return QuotaError(
        f"quota {limit.code}: the account may have {limit.vcpus} vCPUs of this kind {_SHOWN[kind.market]}{used}, "
        f"and {need.nodes} × {kind.machine.name} need {wanted}",
        hint=quotas.raise_command(limit, region.name, wanted + limit.used),
    )
