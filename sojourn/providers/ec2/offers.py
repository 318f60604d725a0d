"""Which machines of EC2 meet a need now: the candidates, and the choice among what is offered.

Only when no place is left is it an error, and then that of what a human can mend.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from sojourn.clouds.aws.clients import Clients
from sojourn.clouds.aws.errors import translated
from sojourn.errors import QuotaError, SojournError, SpecError, nearest
from sojourn.providers import catalogue
from sojourn.providers.catalogue import MachineType
from sojourn.providers.ec2 import images
from sojourn.providers.ec2.places import PROVIDER, Place, look
from sojourn.providers.ec2.survey import survey
from sojourn.renting import Need, Offer, Offers

TYPES = 4  # at most, and none beyond so many times the cheapest
SPREAD = 2.5
OFFERS = 12
KEPT = 4  # of them on demand, where that is allowed


def list_offers(need: Need, clients: Clients) -> Offers:
    """The offers for a need, the cheapest first.

    Raises SpecError for what is unknown or nowhere to be had, QuotaError when the account's limits are in the way.
    """
    if need.boot_image:
        images.check_word(need.boot_image)
    names = _regions(need, clients)
    types = _types(need, clients, names)
    seen = [place for region in survey(need, clients, names, types) for place in look(need, region, types)]
    offers = [place.offer for place in seen if place.offer]
    if not offers:
        raise _why(seen, types)
    alone = ("cluster: there is one machine, and nothing to put near it",) if need.cluster and need.nodes == 1 else ()
    return Offers(fitting=tuple(_ladder(offers)), remarks=(*alone, *_problems(seen)))


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


# --- the choice ---------------------------------------------------------------------------


def _ladder(offers: Iterable[Offer]) -> list[Offer]:
    """A bounded choice, the cheapest first.

    Spot is cheapest nearly everywhere and may run out everywhere, so some of the rungs are kept for on demand.
    """
    ranked = sorted(offers, key=_by_price)
    kept = [offer for offer in ranked if offer.market == "on-demand"][:KEPT]
    others = [offer for offer in ranked if offer not in kept]
    return sorted(kept + others[: OFFERS - len(kept)], key=_by_price)


def _by_price(offer: Offer) -> tuple[float, bool, str, str]:
    return offer.price, offer.market != "spot", offer.machine, offer.place


def _problems(seen: Iterable[Place]) -> list[str]:
    """Each problem once, with every place that has it."""
    where: dict[str, list[str]] = {}
    for place in seen:
        if place.problem:
            where.setdefault(place.problem.message, []).append(place.name)
    return [f"{problem} ({', '.join(dict.fromkeys(names))})" for problem, names in where.items()]


def _why(seen: list[Place], types: list[MachineType]) -> SojournError:
    """Why there is no offer at all: what a human can mend comes first."""
    for kind in (QuotaError, SpecError):
        named = [place for place in seen if isinstance(place.problem, kind)]
        if named and (last := named[-1].problem):
            return kind("; ".join(_problems(named)), hint=last.hint)
    return SpecError(
        f"no {' or '.join(one.name for one in types)} can be had: {'; '.join(_problems(seen))}",
        hint="look elsewhere: --region us-east-1 --region us-west-2, or for another machine: --gpu 24GB",
    )
