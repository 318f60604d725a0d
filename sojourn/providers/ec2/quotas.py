"""How many virtual CPUs the account may have at once, by family and market, and how many it has.

https://docs.aws.amazon.com/ec2/latest/instancetypes/ec2-instance-quotas.html
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Any, NamedTuple

from sojourn.clouds.aws.clients import Clients
from sojourn.clouds.aws.errors import code_of, translated
from sojourn.errors import SojournError
from sojourn.providers.catalogue import known
from sojourn.renting import Market

# Types of a family, the code of its quota on demand and on spot. Of other families no quota is known here.
_FAMILIES = (
    (re.compile(r"p5"), "L-417A185B", "L-C4BD4855"),
    (re.compile(r"p[234]"), "L-417A185B", "L-7212CCBC"),
    (re.compile(r"p\d"), "L-417A185B", None),
    (re.compile(r"(gr?|vt)\d"), "L-DB2E81BA", "L-3819A6DF"),
    (re.compile(r"([acdhmrtz]|i[ms]?)\d"), "L-1216C47A", "L-34B43A08"),
)
_COUNTED = ["pending", "running", "stopping", "shutting-down"]


class Limit(NamedTuple):
    """A quota, and what is taken of it."""

    code: str
    vcpus: int
    used: int

    @property
    def left(self) -> int:
        return self.vcpus - self.used


def code(machine: str, market: Market) -> str | None:
    """The quota that counts machines of this type; None when we do not know it."""
    for pattern, on_demand, spot in _FAMILIES:
        if pattern.match(machine):
            return spot if market == "spot" else on_demand
    return None


def read(clients: Clients, region: str, quota: str, used: Counter[str]) -> Limit:
    """One quota as it is now."""
    return Limit(quota, int(_value(clients.client("service-quotas", region), quota)), used[quota])


def used(clients: Clients, region: str) -> Counter[str]:
    """Virtual CPUs that the account has in a region, by quota."""
    filters = [{"Name": "instance-state-name", "Values": _COUNTED}]
    with translated("count the machines of the account"):
        pages = clients.client("ec2", region).get_paginator("describe_instances").paginate(Filters=filters)
        instances = [one for page in pages for reservation in page["Reservations"] for one in reservation["Instances"]]
    taken: Counter[str] = Counter()
    for one in instances:
        counted = code(one["InstanceType"], "spot" if one.get("InstanceLifecycle") == "spot" else "on-demand")
        if counted:
            taken[counted] += _vcpus(one)
    return taken


def raise_command(limit: Limit, region: str, wanted: int) -> str:
    """What to type so that Amazon lets the account have so many."""
    return (
        f"ask for more: aws service-quotas request-service-quota-increase --service-code ec2 "
        f"--quota-code {limit.code} --desired-value {wanted} --region {region}"
    )


def _value(client: Any, quota: str) -> float:
    asked = {"ServiceCode": "ec2", "QuotaCode": quota}
    try:
        with translated("read a quota"):
            return float(client.get_service_quota(**asked)["Quota"]["Value"])
    except SojournError as error:
        # A quota that was never changed may have no value of its own, only the default.
        if error.__cause__ is None or code_of(error.__cause__) != "NoSuchResourceException":
            raise
    with translated("read a quota"):
        return float(client.get_aws_default_service_quota(**asked)["Quota"]["Value"])


def _vcpus(instance: dict[str, Any]) -> int:
    options = instance.get("CpuOptions") or {}
    if "CoreCount" in options:
        return int(options["CoreCount"]) * int(options.get("ThreadsPerCore", 1))
    row = known("aws").get(instance["InstanceType"])
    return row.cpus if row else 0
