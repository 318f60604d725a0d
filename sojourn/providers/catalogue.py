"""The machine types we know by heart, so that a need finds candidates before any cloud is asked.

`machines.csv` holds one row a type: its hardware, and what it cost on demand in its provider's
home region in the month that stands beside the figure. A cloud's own word replaces the figure
where it can be had, and a type that is missing here can still be rented by its exact name.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Collection, Iterable
from functools import cache
from importlib.resources import files

from sojourn.errors import SpecError, nearest
from sojourn.records import Record
from sojourn.renting import GpuNeed, Need

GB = 10**9
PRICED = 3  # types whose price is shown
# What the sizes of iterative's TPI stand for here: the same on every provider.
_SIZES = {
    "s": Need(cpus=1, memory=1 * GB),
    "m": Need(cpus=8, memory=16 * GB),
    "l": Need(cpus=32, memory=64 * GB),
    "xl": Need(cpus=64, memory=128 * GB),
}
_GPUS_OF_SIZE = {"m": 1, "l": 4, "xl": 8}
_SIZE = re.compile(r"(s|m|l|xl)(?:\+([a-z][a-z0-9-]*))?", re.IGNORECASE)
# GPUs that clouds withdraw, and the nearest that is sold.
_RETIRED = {"K80": "T4", "M60": "T4", "P100": "T4", "V100": "A10G"}
_DEFAULT = Need(cpus=2, memory=8 * GB)
# Beyond their credits these slow down, or cost more than their price: only who names them gets them.
_BURSTABLE = re.compile(r"t\d")


class MachineType(Record):
    """A kind of machine, wherever it stands."""

    name: str
    cpus: int
    memory: int
    gpu: str | None = None
    gpus: int = 0
    gpu_memory: int | None = None
    architecture: str = "x86_64"
    price: float | None = None
    priced: str | None = None

    @property
    def shown_gpus(self) -> str:
        """`4 × L4 24 GB`; empty without."""
        return f"{self.gpus} × {self.gpu} {_gb(self.gpu_memory or 0)}" if self.gpu else ""


@cache
def known(provider: str) -> dict[str, MachineType]:
    """The provider's types by name."""
    with (files("sojourn.providers") / "machines.csv").open(encoding="utf-8") as lines:
        return {row["type"]: _type(row) for row in csv.DictReader(lines) if row["provider"] == provider}


def exact(need: Need) -> str | None:
    """The type that the need names; None when it names none, or a size."""
    return None if need.machine is None or _SIZE.fullmatch(need.machine) else need.machine


def of_size(word: str) -> Need | None:
    """What a size like `m` or `l+t4` asks for, on any provider; None for a word that is none. Raises SpecError."""
    return _of_size(word) if _SIZE.fullmatch(word) else None


def candidates(need: Need, provider: str) -> list[MachineType]:
    """The types that meet a need which names none, the cheapest first.

    Raises SpecError naming what is nearest when there is none.
    """
    asked = _of_size(need.machine) if need.machine else need
    if not (asked.gpu or asked.cpus or asked.memory):
        asked = _DEFAULT
    types = known(provider).values()
    fitting = _with_gpus(asked.gpu, types) if asked.gpu else _plain(types, burstable=asked == _SIZES["s"])
    found = [one for one in fitting if one.cpus >= (asked.cpus or 0) and one.memory >= (asked.memory or 0)]
    if not found:
        largest = max(fitting, key=lambda one: (one.memory, one.cpus))
        raise SpecError(
            f"{'cpus' if asked.cpus else 'memory'}: no machine of {provider} has so much",
            hint=f"the largest that fits otherwise is {largest.name}: {largest.cpus} CPUs, {_gb(largest.memory)}",
        )
    return _cheapest_first(found)


def prices(need: Need, provider: str) -> list[str]:
    """What the first few types that fit cost by these rows alone, for who has no account with the provider yet."""
    try:
        name = exact(need)
        found = [known(provider)[name]] if name in known(provider) else candidates(need, provider) if not name else []
    except (SpecError, ValueError):
        return []
    return [
        f"{one.name} ({', '.join(filter(None, [f'{one.cpus} CPUs', _gb(one.memory), one.shown_gpus]))}) "
        f"about ${one.price:.2f}/h in {one.priced}"
        for one in found[:PRICED]
        if one.price is not None
    ]


def _type(row: dict[str, str]) -> MachineType:
    return MachineType(
        name=row["type"],
        cpus=int(row["cpus"]),
        memory=int(row["memory_gib"]) * 2**30,
        gpu=row["gpu"] or None,
        gpus=int(row["gpus"] or 0),
        gpu_memory=int(row["gpu_memory_gb"]) * GB if row["gpu_memory_gb"] else None,
        architecture=row["architecture"],
        price=float(row["price"]) if row["price"] else None,
        priced=row["priced"],
    )


def _of_size(word: str) -> Need:
    found = _SIZE.fullmatch(word)
    assert found is not None
    size, gpu = found[1].lower(), found[2]
    if gpu is None:
        return _SIZES[size]
    if size not in _GPUS_OF_SIZE:
        raise SpecError(f"machine: {word!r} has no GPU", hint=f"write m+{gpu} for one, l+{gpu} for four")
    if instead := _RETIRED.get(gpu.upper()):
        raise SpecError(
            f"machine: {word!r} asks for GPUs that are being withdrawn everywhere",
            hint=f"the nearest that are sold: --machine {size}+{instead.lower()}",
        )
    return Need(gpu=GpuNeed(name=gpu, count=_GPUS_OF_SIZE[size]))


def _plain(types: Iterable[MachineType], burstable: bool) -> list[MachineType]:
    found = [one for one in types if not one.gpu and one.architecture == "x86_64"]
    return [one for one in found if burstable or not _BURSTABLE.match(one.name)]


def _with_gpus(need: GpuNeed, types: Iterable[MachineType]) -> list[MachineType]:
    """The types with just so many GPUs: with more, a script would have another number of ranks."""
    models = [one for one in types if one.gpu]
    if need.name:
        model = _model(need.name, {str(one.gpu) for one in models})
        models = [one for one in models if one.gpu == model]
    else:
        # What a script needs was most likely never built for arm, so only who names its GPU gets one.
        model, models = "GPU", [one for one in models if one.architecture == "x86_64"]
    large = [one for one in models if (one.gpu_memory or 0) >= (need.memory or 0)]
    if not large:
        most = max(one.gpu_memory or 0 for one in models)
        raise SpecError(f"gpu: no {model} has {_gb(need.memory or 0)}", hint=f"the largest has {_gb(most)}")
    counted = [one for one in large if one.gpus == need.count]
    if not counted:
        counts = sorted({one.gpus for one in large})
        closest = next((count for count in counts if count > need.count), counts[-1])
        what = _gb(need.memory).replace(" ", "") if need.memory else "" if model == "GPU" else model
        raise SpecError(
            f"gpu: no machine has {need.count} × {what or model}; they come with {' or '.join(map(str, counts))}",
            hint=f"write --gpu {what}{':' if what else ''}{closest}",
        )
    return counted


def _model(name: str, models: Collection[str]) -> str:
    """The model's name as it is written here."""
    if instead := _RETIRED.get(name.upper()):
        raise SpecError(f"gpu: the {name} is being withdrawn everywhere", hint=f"the nearest is --gpu {instead}")
    for model in models:
        if model.lower() == name.lower():
            return model
    hint = f"known: {', '.join(sorted(models))}; or any with enough memory: --gpu 24GB"
    raise SpecError(f"gpu: {name!r} is not known, {nearest(name.upper(), models)}", hint=hint)


def _cheapest_first(types: Iterable[MachineType]) -> list[MachineType]:
    return sorted(types, key=lambda one: (one.price is None, one.price, one.name))


def _gb(size: float) -> str:
    return f"{size / GB:.0f} GB"
