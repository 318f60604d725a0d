"""Everything about a region that decides on its offers, asked at once and before anything is made.

What only lacks the right to be asked (prices, quotas) is left unknown with a remark; what nothing
can be offered without (zones, subnets) is an error.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

from sojourn.clouds.aws import foundation
from sojourn.clouds.aws.clients import Clients
from sojourn.clouds.aws.errors import region_in, translated
from sojourn.clouds.aws.foundation import Foundation, Ground
from sojourn.errors import AccessError, SojournError, SpecError
from sojourn.providers.catalogue import MachineType
from sojourn.providers.ec2 import gateway, images, placement, prices, quotas
from sojourn.providers.ec2.images import Image
from sojourn.providers.ec2.quotas import Limit
from sojourn.renting import Market, Need

MARKETS: tuple[Market, ...] = ("spot", "on-demand")
WORKERS = 8

Answer = TypeVar("Answer")


class Subnet(NamedTuple):
    """The default subnet of a zone."""

    id: str
    addresses: int
    inward: bool = False  # from it S3 is reached without a public address, where that was asked for


@dataclass(frozen=True)
class Region:
    """What a region answered."""

    name: str
    zones: dict[str, list[str]]  # by type: those that have it at all
    subnets: dict[str, Subnet]  # by zone
    images: dict[str, Image | SpecError]  # by type: what it boots, or why there is none
    spot: dict[tuple[str, str], float] | None  # dollars an hour by type and zone
    on_demand: dict[str, float]  # dollars an hour by type
    limits: dict[str, Limit]  # by quota
    ground: Ground | SpecError | None  # what of ours stands in another region than home
    remarks: tuple[str, ...]
    apart: frozenset[str] = frozenset()  # types that Amazon does not put near each other, where that was asked for
    ours: dict[str, str] | SpecError = field(default_factory=dict)  # what a request names, or why it cannot be made
    data: dict[str, str] = field(default_factory=dict)  # the region of each bucket that machines read


def markets(need: Need) -> tuple[Market, ...]:
    """Where the need may be met, the cheaper first."""
    return (need.market,) if need.market else MARKETS


def survey(need: Need, clients: Clients, regions: tuple[str, ...], types: list[MachineType]) -> list[Region]:
    """What each region says to a need that these types would meet.

    Raises SpecError when the project was never set up in the account.
    """
    with ThreadPoolExecutor(len(regions) + 2) as pool:
        home = pool.submit(foundation.find, clients, need.project) if need.project else None
        data = pool.submit(_data, need, clients)
        asked = [pool.submit(_ask, need, clients, name, types) for name in regions]
        ours = home.result() if home else None
        return [replace(one.result(), ours=_ours(ours, one.result()), data=data.result()) for one in asked]


def _ask(need: Need, clients: Clients, region: str, types: list[MachineType]) -> Region:
    names = [one.name for one in types]
    word = {one.name: need.boot_image or ("nvidia" if one.gpus else "ubuntu") for one in types}
    kinds = {(word[one.name], one.architecture) for one in types}
    remarks: list[str] = []

    def optional(what: str, ask: Callable[[], Answer], otherwise: Answer) -> Answer:
        try:
            return ask()
        except SojournError as error:
            remarks.append(f"{what}: {error.message}")
            return otherwise

    with ThreadPoolExecutor(WORKERS) as pool:
        zones = pool.submit(_zones, clients, region, names)
        subnets = pool.submit(_subnets, clients, region, need)
        ground = pool.submit(_ground, need, clients, region)
        apart = pool.submit(placement.unfit, clients, region, names) if placement.is_wanted(need) else None
        resolved = {kind: pool.submit(_or_why_not, images.resolve, clients, region, *kind) for kind in kinds}
        spot = pool.submit(optional, "spot prices are guesses", lambda: _spot(need, clients, region, names), None)
        limits = pool.submit(optional, "quotas are unknown", lambda: _limits(need, clients, region, names), {})
        listed = pool.submit(optional, "prices on demand are guesses", lambda: _on_demand(clients, region, names), {})
        return Region(
            name=region,
            zones=zones.result(),
            subnets=subnets.result(),
            images={one.name: resolved[word[one.name], one.architecture].result() for one in types},
            spot=spot.result(),
            on_demand=listed.result(),
            limits=limits.result(),
            ground=ground.result(),
            remarks=tuple(remarks),
            apart=apart.result() if apart else frozenset(),
        )


def _or_why_not(ask: Callable[..., Answer], *what: Any) -> Answer | SpecError:
    # What is missing in one of several regions is no reason to refuse them all.
    try:
        return ask(*what)
    except SpecError as error:
        return error


def _ground(need: Need, clients: Clients, region: str) -> Ground | SpecError | None:
    if need.project is None or region == clients.region:
        return None
    return _or_why_not(foundation.find_ground, clients, region)


def _ours(home: Foundation | None, region: Region) -> dict[str, str] | SpecError:
    if home is None:
        return {}
    if isinstance(region.ground, SpecError):
        return region.ground
    return {
        "profile": home.profile_arn.rpartition("/")[2],
        "scheduler_role": home.scheduler_role_arn,
        "group": (region.ground or home).group_id,
    }


def _data(need: Need, clients: Clients) -> dict[str, str]:
    """Where each bucket is, as far as we may ask; that one does not exist is for others to say."""
    found = {}
    for bucket in {urlsplit(url).netloc for url in need.data if url.startswith("s3://")}:
        try:
            with translated("ask where a bucket is"):
                answer = clients.client("s3").head_bucket(Bucket=bucket)
            home = answer["ResponseMetadata"]["HTTPHeaders"].get("x-amz-bucket-region", clients.region)
        except SojournError as error:  # a right to what lies below a prefix lets nobody ask for the bucket
            home = region_in(error.__cause__ or error)
        if home is not None:
            found[f"s3://{bucket}"] = home
    return found


def _zones(clients: Clients, region: str, types: list[str]) -> dict[str, list[str]]:
    asked: dict[str, Any] = {
        "LocationType": "availability-zone",
        "Filters": [{"Name": "instance-type", "Values": types}],
    }
    with translated("ask where these machines are"):
        pages = clients.client("ec2", region).get_paginator("describe_instance_type_offerings").paginate(**asked)
        rows = [row for page in pages for row in page["InstanceTypeOfferings"]]
    return {name: sorted(row["Location"] for row in rows if row["InstanceType"] == name) for name in types}


def _subnets(clients: Clients, region: str, need: Need) -> dict[str, Subnet]:
    filters = [{"Name": "default-for-az", "Values": ["true"]}]
    with translated("look for subnets"):
        found = clients.client("ec2", region).describe_subnets(Filters=filters)["Subnets"]
    inward: frozenset[str] = frozenset()
    with suppress(AccessError):  # then they have addresses, as without the wish
        inward = gateway.inward(clients, region, found) if need.network == "none" else inward
    return {
        one["AvailabilityZone"]: Subnet(one["SubnetId"], one["AvailableIpAddressCount"], one["SubnetId"] in inward)
        for one in found
    }


def _spot(need: Need, clients: Clients, region: str, types: list[str]) -> dict[tuple[str, str], float] | None:
    return prices.spot(clients, region, types) if "spot" in markets(need) else {}


def _on_demand(clients: Clients, region: str, types: list[str]) -> dict[str, float]:
    with ThreadPoolExecutor(len(types)) as pool:
        listed = pool.map(lambda name: (name, prices.on_demand(clients, region, name)), types)
        return {name: price for name, price in listed if price is not None}


def _limits(need: Need, clients: Clients, region: str, types: list[str]) -> dict[str, Limit]:
    codes = {code for name in types for market in markets(need) if (code := quotas.code(name, market))}
    used = quotas.used(clients, region)
    return {code: quotas.read(clients, region, code, used) for code in sorted(codes)}
