"""What an hour of a machine costs: the instance, its disk and its public address.

Spot prices come from the account's price history, those on demand from the price list. Where
one may not be asked, the catalogue's figure stands in for it, and the offer says so.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from sojourn.clouds.aws.clients import Clients
from sojourn.clouds.aws.errors import translated

HOME = "us-east-1"  # of the catalogue's figures, and one of the few regions with a price list
CLOCKS_OFF = timedelta(minutes=15)  # by more Amazon refuses the signature
ADDRESS = 0.005  # dollars an hour, https://aws.amazon.com/vpc/pricing/ (public IPv4 address)
GP3_GIB_MONTH = 0.08  # dollars, https://aws.amazon.com/ebs/pricing/ (us-east-1)
HOURS_A_MONTH = 730
# Dollars a GB between regions, by the continent it leaves. Within one some pairs cost less.
# https://aws.amazon.com/ec2/pricing/on-demand/#Data_Transfer
_TRANSFER = {
    "us": 0.02,
    "ca": 0.02,
    "eu": 0.02,
    "il": 0.08,
    "ap": 0.09,
    "me": 0.11,
    "mx": 0.02,
    "sa": 0.138,
    "af": 0.147,
}


def besides(disk_gib: int, address: bool = True) -> float:
    """Dollars an hour for what stands beside the instance itself: its disk, and mostly a public address."""
    return (ADDRESS if address else 0.0) + disk_gib * GP3_GIB_MONTH / HOURS_A_MONTH


def spot(clients: Clients, region: str, types: Iterable[str]) -> dict[tuple[str, str], float]:
    """Dollars an hour now, by type and zone; a zone without spot machines of a type has no entry."""
    # Without the second a zone that tells only of machines in networks would count as one that has none. A start that
    # Amazon's clock has not reached is none, so it lies a while back; what came since counts.
    products, start = ["Linux/UNIX", "Linux/UNIX (Amazon VPC)"], datetime.now(UTC) - CLOCKS_OFF
    asked = {"InstanceTypes": list(types), "ProductDescriptions": products, "StartTime": start}
    with translated("read the spot prices"):
        pages = clients.client("ec2", region).get_paginator("describe_spot_price_history").paginate(**asked)
        rows = [row for page in pages for row in page["SpotPriceHistory"]]
    newest = sorted(rows, key=lambda row: str(row["Timestamp"]))
    return {(row["InstanceType"], row["AvailabilityZone"]): float(row["SpotPrice"]) for row in newest}


def on_demand(clients: Clients, region: str, machine: str) -> float | None:
    """Dollars an hour by the price list; None when it does not name the type there."""
    wanted = {
        "instanceType": machine,
        "regionCode": region,
        "operatingSystem": "Linux",
        "preInstalledSw": "NA",
        "tenancy": "Shared",
        "capacitystatus": "Used",
        "marketoption": "OnDemand",
    }
    filters = [{"Type": "TERM_MATCH", "Field": field, "Value": value} for field, value in wanted.items()]
    with translated("read the price list"):
        answer = clients.client("pricing", HOME).get_products(ServiceCode="AmazonEC2", Filters=filters)
    hourly = [price for product in answer["PriceList"] for price in _hourly(json.loads(product))]
    return max(hourly, default=None)


def transfer(origin: str, target: str) -> float:
    """About how many dollars a GB costs from one region to another; the origin's list price."""
    if origin == target:
        return 0.0
    return _TRANSFER.get(origin.partition("-")[0], max(_TRANSFER.values()))


def _hourly(product: dict[str, Any]) -> Iterable[float]:
    for term in product.get("terms", {}).get("OnDemand", {}).values():
        for dimension in term["priceDimensions"].values():
            if dimension["unit"] == "Hrs" and "USD" in dimension["pricePerUnit"]:
                yield float(dimension["pricePerUnit"]["USD"])
