"""Calls that moto cannot answer, or answers where Amazon refuses; decided before moto sees them."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs

from moto.ec2.models.instance_types import INSTANCE_TYPES

from clouds.aws import answers, market
from clouds.aws.calls import Call

Environ = dict[str, Any]
FILTER_VALUES = 200
_VALUE = re.compile(r"Filter\.\d+\.Value\.\d+")


def expired(call: Call, environ: Environ, start: answers.Start) -> Iterable[bytes] | None:
    """Refuse a presigned URL after its time, which moto serves for ever."""
    ends = _end_of_presigned(parse_qs(call.query)) if call.service == "s3" else None
    if ends is None or time.time() <= ends:
        return None
    answers.drained(environ)
    return answers.error(start, "s3", "AccessDenied", 403, "Request has expired")


def _end_of_presigned(query: dict[str, list[str]]) -> float | None:
    """Until when a URL is good, in seconds since 1970: both ways of signing are in use."""
    if "X-Amz-Expires" in query and "X-Amz-Date" in query:
        signed = datetime.strptime(query["X-Amz-Date"][0], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        return signed.timestamp() + int(query["X-Amz-Expires"][0])
    if "Expires" in query and "Signature" in query:
        return float(query["Expires"][0])
    return None


def dry_run(call: Call, environ: Environ, start: answers.Start) -> Iterable[bytes] | None:
    """Whoever only asks whether they may look is not shown anything, which moto does."""
    if call.service != "ec2" or not call.action.startswith("Describe") or "DryRun=true" not in call.body:
        return None
    said = "Request would have succeeded, but DryRun flag is set."
    return answers.error(start, "ec2", "DryRunOperation", 412, said)


def filters(call: Call, environ: Environ, start: answers.Start) -> Iterable[bytes] | None:
    """Refuse more values of filters than Amazon takes by one call."""
    if call.service != "ec2" or not call.action.startswith("Describe"):
        return None
    values = [name for name in parse_qs(call.body) if _VALUE.fullmatch(name)]
    if len(values) <= FILTER_VALUES:
        return None
    said = f"The maximum number of filter values specified on a single call is {FILTER_VALUES}"
    return answers.error(start, "ec2", "FilterLimitExceeded", 400, said)


def pricing(call: Call, environ: Environ, start: answers.Start) -> Iterable[bytes] | None:
    """The price list of EC2, which moto has not: on demand, Linux, shared machines.

    https://docs.aws.amazon.com/aws-cost-management/latest/APIReference/API_pricing_GetProducts.html
    """
    if call.service != "pricing":
        return None
    if call.action != "GetProducts":
        return answers.error(start, "pricing", "InternalErrorException", 500, f"{call.action} is not stood in for")
    asked = json.loads(call.body or "{}")
    if asked.get("ServiceCode") != "AmazonEC2":
        return answers.plain(start, {"FormatVersion": "aws_v1", "PriceList": []})
    filters = {one["Field"]: one["Value"] for one in asked.get("Filters", [])}
    products = [product for product in _products(filters) if _passes(product, filters)]
    first, size = int(asked.get("NextToken") or 0), int(asked.get("MaxResults") or 100)
    answer = {"FormatVersion": "aws_v1", "PriceList": [json.dumps(one) for one in products[first : first + size]]}
    if first + size < len(products):
        answer["NextToken"] = str(first + size)
    return answers.plain(start, answer)


# The console's names of places, by which the price list may be asked too.
PLACES = {
    "us-east-1": "US East (N. Virginia)",
    "us-east-2": "US East (Ohio)",
    "us-west-1": "US West (N. California)",
    "us-west-2": "US West (Oregon)",
    "ca-central-1": "Canada (Central)",
    "eu-west-1": "EU (Ireland)",
    "eu-west-2": "EU (London)",
    "eu-central-1": "EU (Frankfurt)",
    "eu-north-1": "EU (Stockholm)",
    "ap-northeast-1": "Asia Pacific (Tokyo)",
    "ap-southeast-1": "Asia Pacific (Singapore)",
    "ap-southeast-2": "Asia Pacific (Sydney)",
    "sa-east-1": "South America (Sao Paulo)",
}


def _products(filters: dict[str, str]) -> list[dict[str, Any]]:
    regions = [filters["regionCode"]] if filters.get("regionCode") in PLACES else list(PLACES)
    types = [filters["instanceType"]] if "instanceType" in filters else list(market.ON_DEMAND)
    return [_product(one, region) for region in regions for one in types if market.on_demand(one, region) is not None]


def _product(instance_type: str, region: str) -> dict[str, Any]:
    sku = f"{instance_type}.{region}".replace("-", "").replace(".", "").upper()
    known = INSTANCE_TYPES.get(instance_type, {})
    dimension = {
        "unit": "Hrs",
        "description": f"${market.on_demand(instance_type, region)} per On Demand Linux {instance_type} Instance Hour",
        "pricePerUnit": {"USD": f"{market.on_demand(instance_type, region):.10f}"},
    }
    return {
        "product": {
            "productFamily": "Compute Instance",
            "sku": sku,
            "attributes": {
                "instanceType": instance_type,
                "regionCode": region,
                "location": PLACES[region],
                "locationType": "AWS Region",
                "operatingSystem": "Linux",
                "preInstalledSw": "NA",
                "tenancy": "Shared",
                "capacitystatus": "Used",
                "licenseModel": "No License required",
                "marketoption": "OnDemand",
                "servicecode": "AmazonEC2",
                "operation": "RunInstances",
                "currentGeneration": "Yes",
                "vcpu": str(known.get("VCpuInfo", {}).get("DefaultVCpus", 1)),
            },
        },
        "serviceCode": "AmazonEC2",
        "terms": {"OnDemand": {f"{sku}.JRTCKXETXF": {"priceDimensions": {f"{sku}.JRTCKXETXF.6YS6EN2CT7": dimension}}}},
    }


def _passes(product: dict[str, Any], filters: dict[str, str]) -> bool:
    attributes = {**product["product"]["attributes"], "productFamily": "Compute Instance"}
    return all(attributes.get(field, "").lower() == value.lower() for field, value in filters.items())
