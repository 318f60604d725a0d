"""What this cloud has and charges: capacity, quotas and prices, each as a test sets them.

Without a word from a test there is capacity for everything, quotas are roomy, and prices follow
from the table below. The figures are near Amazon's of 2025; nothing may rely on them being exact.
"""

from __future__ import annotations

import fnmatch
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from moto.ec2.models.instance_types import INSTANCE_TYPE_OFFERINGS, INSTANCE_TYPES

# Dollars an hour on demand, Linux, us-east-1.
_LISTED = """
    t3.nano 0.0052  t3.micro 0.0104  t3.small 0.0208  t3.medium 0.0416  t3.large 0.0832  t3.xlarge 0.1664
    t3.2xlarge 0.3328  t4g.micro 0.0084  t4g.small 0.0168  t4g.medium 0.0336
    m6i.large 0.096  m6i.xlarge 0.192  m6i.2xlarge 0.384  m7i.large 0.1008  m7i.xlarge 0.2016  m7g.large 0.0816
    c6a.large 0.0765  c6a.xlarge 0.153  c6a.2xlarge 0.306  m6a.large 0.0864  m6a.xlarge 0.1728  r6a.large 0.1134
    c6i.large 0.085  c6i.xlarge 0.17  c6i.2xlarge 0.34  c7i.4xlarge 0.714  r6i.large 0.126  r6i.xlarge 0.252
    g4dn.xlarge 0.526  g4dn.2xlarge 0.752  g4dn.12xlarge 3.912  g5.xlarge 1.006  g5.2xlarge 1.212
    g5.12xlarge 5.672  g5.48xlarge 16.288  g5g.xlarge 0.42  g6.xlarge 0.8048  g6.2xlarge 0.9776
    g6.12xlarge 4.6016  g6.48xlarge 13.3504  g6e.xlarge 1.861  g6e.12xlarge 10.49264
    g7.2xlarge 2.52  g7e.2xlarge 3.36312
    p3.2xlarge 3.06  p4d.24xlarge 32.7726  p4de.24xlarge 40.96575  p5.48xlarge 98.32
    """.split()
ON_DEMAND = {name: float(dollars) for name, dollars in zip(_LISTED[::2], _LISTED[1::2], strict=True)}
_DEARER = {"eu": 1.1, "ap": 1.2, "sa": 1.5, "ca": 1.05}

# https://docs.aws.amazon.com/ec2/latest/instancetypes/ec2-instance-quotas.html : letters of a family, then
# the code of its vCPU quota on demand and on spot.
QUOTAS = {
    "acdhimrtz": ("L-1216C47A", "L-34B43A08"),
    "g": ("L-DB2E81BA", "L-3819A6DF"),
    "p": ("L-417A185B", "L-7212CCBC"),
}
QUOTA_NAMES = {
    "L-1216C47A": "Running On-Demand Standard (A, C, D, H, I, M, R, T, Z) instances",
    "L-34B43A08": "All Standard (A, C, D, H, I, M, R, T, Z) Spot Instance Requests",
    "L-DB2E81BA": "Running On-Demand G and VT instances",
    "L-3819A6DF": "All G and VT Spot Instance Requests",
    "L-417A185B": "Running On-Demand P instances",
    "L-7212CCBC": "All P4, P3 and P2 Spot Instance Requests",
}
ROOMY_VCPUS = 1_000_000.0
PRICE_CHANGES_EVERY_S = 3 * 3600


@dataclass(frozen=True)
class Place:
    """What one instance takes up."""

    type: str
    zone: str
    market: str  # on-demand, spot


@dataclass(frozen=True)
class Room:
    """A limit that a test set: so many machines of these types, in these zones, of this market, and no more."""

    type: str
    zone: str
    market: str
    machines: int

    def covers(self, place: Place) -> bool:
        wanted = ((place.type, self.type), (place.zone, self.zone), (place.market, self.market))
        return all(fnmatch.fnmatchcase(name, pattern) for name, pattern in wanted)


class Market:
    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self._rooms: list[Room] = []
        self._quotas: dict[tuple[str, str], float] = {}
        self._spot: dict[tuple[str, str], float] = {}

    def limit(self, room: Room) -> None:
        self._rooms.append(room)

    def set_quota(self, region: str, code: str, vcpus: float) -> None:
        if code not in QUOTA_NAMES:
            raise ValueError(f"quota {code!r} is none of {', '.join(QUOTA_NAMES)}")
        self._quotas[region, code] = vcpus

    def set_spot_price(self, instance_type: str, zone: str, dollars: float) -> None:
        self._spot[instance_type, zone] = dollars

    def free(self, place: Place, taken: Iterable[Place]) -> float:
        """How many more machines there are; the last limit that covers the place counts."""
        rooms = [room for room in self._rooms if room.covers(place)]
        if not rooms:
            return float("inf")
        return max(0, rooms[-1].machines - sum(rooms[-1].covers(other) for other in taken))

    def quota(self, region: str, code: str) -> float:
        return self._quotas.get((region, code), ROOMY_VCPUS)

    def vcpus_left(self, region: str, place: Place, taken: Iterable[Place]) -> float:
        """What the quota of this family and market still allows; `taken` are the machines of the region."""
        code = quota_code(place)
        if code is None:
            return ROOMY_VCPUS
        used = sum(vcpus(other.type) for other in taken if quota_code(other) == code)
        return self.quota(region, code) - used

    def spot_price(self, instance_type: str, zone: str, at: float) -> float | None:
        """Dollars an hour: between a quarter and two thirds of the price on demand, by type, zone and time."""
        told = self._spot.get((instance_type, zone))
        dollars = on_demand(instance_type, zone[:-1])
        if told is not None or dollars is None:
            return told
        seed = f"{instance_type} {zone} {int(at // PRICE_CHANGES_EVERY_S)}"
        share = hashlib.sha256(seed.encode()).digest()[0] / 255
        base = hashlib.sha256(f"{instance_type} {zone}".encode()).digest()[0] / 255
        return round(dollars * (0.25 + 0.35 * base + 0.06 * share), 6)

    def spot_history(self, instance_type: str, zone: str, start: float, end: float) -> Iterator[tuple[float, float]]:
        """(time, dollars), the newest first; as at Amazon the price in force at `start` comes too."""
        at = end // PRICE_CHANGES_EVERY_S * PRICE_CHANGES_EVERY_S
        while True:
            dollars = self.spot_price(instance_type, zone, at)
            if dollars is None:
                return
            yield at, dollars
            if at <= start:
                return
            at -= PRICE_CHANGES_EVERY_S


def on_demand(instance_type: str, region: str) -> float | None:
    """Dollars an hour; None for a type without a price here."""
    dollars = ON_DEMAND.get(instance_type)
    return None if dollars is None else round(dollars * _DEARER.get(region[:2], 1.0), 6)


def vcpus(instance_type: str) -> int:
    known = INSTANCE_TYPES.get(instance_type)
    return int(known["VCpuInfo"]["DefaultVCpus"]) if known else 1


def quota_code(place: Place) -> str | None:
    for letters, (demand, spot) in QUOTAS.items():
        if place.type[0] in letters:
            return spot if place.market == "spot" else demand
    return None


def offered(instance_type: str, zone: str) -> bool:
    """Whether this zone has the type at all."""
    rows = INSTANCE_TYPE_OFFERINGS["availability-zone"].get(zone[:-1], [])
    return any(row["InstanceType"] == instance_type and row["Location"] == zone for row in rows)
