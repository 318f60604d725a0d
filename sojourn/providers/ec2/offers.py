"""Which machines of EC2 meet a need now, where, and at what price.

What makes a machine impossible somewhere (no subnet, no room in the quota, no price) leaves it
out there, with a remark that says so; only when nothing is left is it an error.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from sojourn import catalogue
from sojourn.catalogue import MachineType
from sojourn.errors import QuotaError, SojournError, SpecError, nearest
from sojourn.providers.ec2 import images, prices, quotas
from sojourn.providers.ec2.clients import Clients
from sojourn.providers.ec2.errors import translated
from sojourn.providers.ec2.images import Image
from sojourn.providers.ec2.quotas import Limit
from sojourn.providers.ec2.survey import Region, markets, survey
from sojourn.records import Market, Need, Offer, Offers

PROVIDER = "aws"
TYPES = 4  # at most, and none beyond so many times the cheapest
SPREAD = 2.5
OFFERS = 12
ROOM_GIB = 50  # beside what the image takes, unless the need says how large the disk is


def list_offers(need: Need, clients: Clients) -> Offers:
    """The offers for a need, the cheapest first.

    Raises SpecError for what is unknown or nowhere to be had, QuotaError when the account's limits are in the way.
    """
    if need.image:
        images.check_word(need.image)
    regions = _regions(need, clients)
    types = _types(need, clients, regions)
    places = [place for region in survey(need, clients, regions, types) for place in _places(need, region, types)]
    offers = [place.offer for place in places if place.offer]
    if not offers:
        raise _why(places, types)
    return Offers(fitting=tuple(_ladder(offers)), remarks=tuple(_problems(places)))


def _regions(need: Need, clients: Clients) -> tuple[str, ...]:
    if not need.regions:
        return (clients.region,)
    with translated("list the regions"):
        found = clients.client("ec2").describe_regions(AllRegions=True)["Regions"]
    enabled = {one["RegionName"]: one.get("OptInStatus") != "not-opted-in" for one in found}
    for name in need.regions:
        if name not in enabled:
            raise SpecError(f"regions: {name!r} is no region of EC2, {nearest(name, enabled)}")
        if not enabled[name]:
            hint = f"enable it: aws account enable-region --region-name {name}"
            raise SpecError(f"regions: {name} is not enabled in your account", hint=hint)
    return tuple(dict.fromkeys(need.regions))


# --- types --------------------------------------------------------------------------------


def _types(need: Need, clients: Clients, regions: tuple[str, ...]) -> list[MachineType]:
    name = catalogue.exact(need)
    if name is None:
        found = catalogue.candidates(need, PROVIDER)
        most = (found[0].price or math.inf) * SPREAD
        return [one for one in found if one.price is None or one.price <= most][:TYPES]
    return [catalogue.known(PROVIDER).get(name) or _described(name, clients, regions)]


def _described(name: str, clients: Clients, regions: tuple[str, ...]) -> MachineType:
    """A type that the catalogue lacks, as EC2 describes it."""
    for region in regions:
        try:
            with translated("look at a machine type"):
                (found,) = clients.client("ec2", region).describe_instance_types(InstanceTypes=[name])["InstanceTypes"]
        except SpecError:
            continue
        gpu = next(iter(found.get("GpuInfo", {}).get("Gpus", [])), None)
        return MachineType(
            name=name,
            cpus=found["VCpuInfo"]["DefaultVCpus"],
            memory=found["MemoryInfo"]["SizeInMiB"] * 2**20,
            gpu=gpu["Name"] if gpu else None,
            gpus=gpu["Count"] if gpu else 0,
            gpu_memory=gpu["MemoryInfo"]["SizeInMiB"] * 2**20 if gpu else None,
            architecture=found["ProcessorInfo"]["SupportedArchitectures"][-1],  # i386 comes first, where there is both
        )
    raise SpecError(
        f"machine: {name!r} is no machine type of EC2 in {', '.join(regions)}, "
        f"{nearest(name, catalogue.known(PROVIDER))}",
        hint="or say what it must have: --gpu L4, --cpus 8 --memory 32GB, or a size: s, m, l, xl, m+t4, l+l4 …",
    )


# --- places -------------------------------------------------------------------------------


class _Place(NamedTuple):
    """A region or a zone that was looked at: its offer, or the problem with it."""

    name: str
    offer: Offer | None = None
    problem: SojournError | None = None


def _places(need: Need, region: Region, types: list[MachineType]) -> Iterator[_Place]:
    for remark in region.remarks:
        yield _Place(region.name, problem=SojournError(remark))
    if not region.subnets:
        hint = f"make one: aws ec2 create-default-vpc --region {region.name}"
        yield _Place(region.name, problem=SpecError("there is no default subnet to put a machine into", hint=hint))
        return
    for machine in types:
        image = region.images[machine.name]
        if isinstance(image, SpecError):
            yield _Place(region.name, problem=image)
        elif not region.zones[machine.name]:
            hint = f"look where it is: {_WHERE.format(machine.name)}"
            yield _Place(region.name, problem=SpecError(f"there is no {machine.name}", hint=hint))
        else:
            yield from _zones(need, region, machine, image)


_WHERE = "aws ec2 describe-instance-type-offerings --filters Name=instance-type,Values={} --region us-east-1"


def _zones(need: Need, region: Region, machine: MachineType, image: Image) -> Iterator[_Place]:
    """Each zone of a region on each market."""
    for market in markets(need):
        limit = region.limits.get(quotas.code(machine.name, market) or "")
        if limit and limit.left < machine.cpus * need.nodes:
            yield _Place(region.name, problem=_short(need, region, machine, market, limit))
            continue
        for zone in region.zones[machine.name]:
            subnet = region.subnets.get(zone)
            price, note = _price(region, machine, zone, market)
            if subnet is None:
                yield _Place(zone, problem=SojournError("there is no default subnet"))
            elif subnet.addresses < need.nodes:
                yield _Place(zone, problem=SojournError(f"{subnet.addresses} addresses are left in its subnet"))
            elif price is None:
                yield _Place(zone, problem=SojournError(f"{machine.name} {_SHOWN[market]}: {note}"))
            else:
                yield _Place(zone, _offer(need, region, machine, image, zone, market, price, note))


def _offer(
    need: Need,
    region: Region,
    machine: MachineType,
    image: Image,
    zone: str,
    market: Market,
    price: float,
    note: str | None,
) -> Offer:
    disk = _disk_gib(need, image)
    limit = region.limits.get(quotas.code(machine.name, market) or "")
    return Offer(
        provider=PROVIDER,
        machine=machine.name,
        place=zone,
        region=region.name,
        market=market,
        price=round(price + prices.besides(disk), 6),
        price_note=note,
        cpus=machine.cpus,
        memory=machine.memory,
        gpus=(str(machine.gpu),) * machine.gpus,
        gpu_memory=machine.gpu_memory,
        architecture=machine.architecture,
        quota=f"{machine.cpus * need.nodes} of {limit.left} vCPUs" if limit else None,
        details={
            "image": image.id,
            "image_name": image.name,
            "root_device": image.root_device,
            "disk_gib": disk,
            "subnet": region.subnets[zone].id,
        },
    )


def _disk_gib(need: Need, image: Image) -> int:
    if need.disk is None:
        return image.root_gib + ROOM_GIB
    disk = math.ceil(need.disk / images.GIB)
    if disk < image.root_gib:
        least = math.ceil(image.root_gib * images.GIB / catalogue.GB)
        asked = f"{need.disk / catalogue.GB:.0f}GB"
        raise SpecError(
            f"disk: {asked} is smaller than the image {image.name or image.id}, which has {least}GB",
            hint=f"write at least --disk {least}GB, more for what the script writes, or leave it out",
        )
    return disk


def _price(region: Region, machine: MachineType, zone: str, market: Market) -> tuple[float | None, str | None]:
    """Dollars an hour for the instance alone, and why that is an estimate or not known."""
    if market == "spot" and region.spot is not None:
        price = region.spot.get((machine.name, zone))
        return price, None if price else "nobody offers it there"
    listed = region.on_demand.get(machine.name)
    price, note = (listed, None) if listed else (machine.price, f"that of {prices.HOME} in {machine.priced}")
    if price is None:
        return None, "its price is not known without the right pricing:GetProducts"
    if market == "spot":
        return price, "that on demand, which spot never exceeds"
    return price, note


def _short(need: Need, region: Region, machine: MachineType, market: Market, limit: Limit) -> QuotaError:
    wanted = machine.cpus * need.nodes
    used = f", {limit.used} of them in use" if limit.used else ""
    return QuotaError(
        f"quota {limit.code}: the account may have {limit.vcpus} vCPUs of this kind {_SHOWN[market]}{used}, "
        f"and {need.nodes} × {machine.name} need {wanted}",
        hint=quotas.raise_command(limit, region.name, wanted + limit.used),
    )


_SHOWN: dict[Market, str] = {"spot": "as spot", "on-demand": "on demand"}


# --- the choice ---------------------------------------------------------------------------


def _ladder(offers: Iterable[Offer]) -> list[Offer]:
    """A bounded choice, the cheapest first.

    Each kind of machine on each market has its turn before any has another zone: that one
    kind has run out is common, and what is dearer is of no use if it is cut off.
    """
    turns: Counter[tuple[str, str]] = Counter()
    ranked = []
    for offer in sorted(offers, key=_by_price):
        kind = offer.machine, offer.market
        ranked.append((turns[kind], offer))
        turns[kind] += 1
    ranked.sort(key=lambda one: one[0])
    return sorted((offer for _, offer in ranked[:OFFERS]), key=_by_price)


def _by_price(offer: Offer) -> tuple[float, bool, str, str]:
    return offer.price, offer.market != "spot", offer.machine, offer.place


def _problems(places: Iterable[_Place]) -> list[str]:
    """Each problem once, with every place that has it."""
    where: dict[str, list[str]] = {}
    for place in places:
        if place.problem:
            where.setdefault(place.problem.message, []).append(place.name)
    return [f"{problem} ({', '.join(dict.fromkeys(names))})" for problem, names in where.items()]


def _why(places: list[_Place], types: list[MachineType]) -> SojournError:
    """Why there is no offer at all: what a human can mend comes first."""
    for kind in (QuotaError, SpecError):
        named = [place for place in places if isinstance(place.problem, kind)]
        if named and (last := named[-1].problem):
            return kind("; ".join(_problems(named)), hint=last.hint)
    return SpecError(
        f"no {' or '.join(one.name for one in types)} can be had: {'; '.join(_problems(places))}",
        hint="look elsewhere: --region us-east-1 --region us-west-2, or for another machine: --gpu 24GB",
    )
