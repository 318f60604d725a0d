"""Whether machines reach the store without an address in the world: by a gateway of Amazon's own network.

With `network: none` that is all they need. Such a gateway for S3 is free; it serves the subnets of the
route tables that name it, and the buckets of its own region.
https://docs.aws.amazon.com/vpc/latest/privatelink/vpc-endpoints-s3.html
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from sojourn.clouds.aws.clients import Clients
from sojourn.clouds.aws.errors import translated
from sojourn.renting import Need


def are_enough(need: Need, region: str, data: dict[str, str]) -> bool:
    """Whether a gateway in the region would do: all buckets are known to be there, and nothing but buckets is read."""
    near = all(data.get(f"s3://{urlsplit(url).netloc}") == region for url in need.data if url.startswith("s3://"))
    return need.network == "none" and not need.secrets and near


def inward(clients: Clients, region: str, subnets: list[dict[str, Any]]) -> frozenset[str]:
    """Those of the subnets that reach the region's S3 by a gateway."""
    networks = {one["VpcId"] for one in subnets}
    with translated("look for gateways to S3"):
        pages = clients.client("ec2", region).get_paginator("describe_vpc_endpoints").paginate()
        served = {
            table
            for page in pages
            for one in page["VpcEndpoints"]
            if one["ServiceName"] == f"com.amazonaws.{region}.s3"
            and (one["VpcEndpointType"], one["State"].lower()) == ("Gateway", "available")
            and one["VpcId"] in networks
            for table in one["RouteTableIds"]
        }
    if not served:
        return frozenset()
    with translated("look where subnets lead to"):
        filters = [{"Name": "vpc-id", "Values": sorted(networks)}]
        tables = clients.client("ec2", region).describe_route_tables(Filters=filters)["RouteTables"]
    leads = {link.get("SubnetId") or table["VpcId"]: table["RouteTableId"] for table in tables
             for link in table["Associations"] if link.get("Main") or link.get("SubnetId")}  # fmt: skip
    # A subnet without a table of its own has the main one of its network.
    return frozenset(
        one["SubnetId"] for one in subnets if leads.get(one["SubnetId"], leads.get(one["VpcId"])) in served
    )
