"""Everything about a region that decides on its offers, asked at once and before anything is made.

What only lacks the right to be asked (prices, quotas) is left unknown with a remark; what nothing
can be offered without (zones, subnets) is an error.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from sojourn.catalogue import MachineType
from sojourn.errors import SojournError, SpecError, first_line
from sojourn.providers.ec2 import images, prices, quotas
from sojourn.providers.ec2.clients import Clients
from sojourn.providers.ec2.errors import translated
from sojourn.providers.ec2.images import Image
from sojourn.providers.ec2.quotas import Limit
from sojourn.records import Market, Need

MARKETS: tuple[Market, ...] = ("spot", "on-demand")
WORKERS = 8

Answer = TypeVar("Answer")


class Subnet(NamedTuple):
    """The default subnet of a zone."""

    id: str
    addresses: int


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
    remarks: tuple[str, ...] = ()


def markets(need: Need) -> tuple[Market, ...]:
    """Where the need may be met, the cheaper first."""
    return (need.market,) if need.market else MARKETS


def survey(need: Need, clients: Clients, regions: tuple[str, ...], types: list[MachineType]) -> list[Region]:
    """What each region says to a need that these types would meet."""
    for name in regions:  # threads may share clients, but not make them
        for service, where in (("ec2", name), ("ssm", name), ("service-quotas", name), ("pricing", prices.HOME)):
            clients.client(service, where)
    with ThreadPoolExecutor(len(regions)) as pool:
        return list(pool.map(lambda name: _ask(need, clients, name, types), regions))


def _ask(need: Need, clients: Clients, region: str, types: list[MachineType]) -> Region:
    names = [one.name for one in types]
    word = {one.name: need.image or ("nvidia" if one.gpus else "ubuntu") for one in types}
    kinds = {(word[one.name], one.architecture) for one in types}
    remarks: list[str] = []

    def optional(what: str, ask: Callable[[], Answer], otherwise: Answer) -> Answer:
        try:
            return ask()
        except SojournError as error:
            remarks.append(f"{what}: {first_line(error)}")
            return otherwise

    with ThreadPoolExecutor(WORKERS) as pool:
        zones = pool.submit(_zones, clients, region, names)
        subnets = pool.submit(_subnets, clients, region)
        resolved = {kind: pool.submit(_image, clients, region, *kind) for kind in kinds}
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
            remarks=tuple(remarks),
        )


def _zones(clients: Clients, region: str, types: list[str]) -> dict[str, list[str]]:
    asked: dict[str, Any] = {
        "LocationType": "availability-zone",
        "Filters": [{"Name": "instance-type", "Values": types}],
    }
    with translated("ask where these machines are"):
        pages = clients.client("ec2", region).get_paginator("describe_instance_type_offerings").paginate(**asked)
        rows = [row for page in pages for row in page["InstanceTypeOfferings"]]
    return {name: sorted(row["Location"] for row in rows if row["InstanceType"] == name) for name in types}


def _subnets(clients: Clients, region: str) -> dict[str, Subnet]:
    filters = [{"Name": "default-for-az", "Values": ["true"]}]
    with translated("look for subnets"):
        found = clients.client("ec2", region).describe_subnets(Filters=filters)["Subnets"]
    return {one["AvailabilityZone"]: Subnet(one["SubnetId"], one["AvailableIpAddressCount"]) for one in found}


def _image(clients: Clients, region: str, word: str, architecture: str) -> Image | SpecError:
    # An image may be missing in one of several regions.
    try:
        return images.resolve(clients, region, word, architecture)
    except SpecError as error:
        return error


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
