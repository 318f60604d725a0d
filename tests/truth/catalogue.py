"""Writes sojourn/providers/machines.csv anew.

Hardware is from moto's copy of DescribeInstanceTypes, prices are from Amazon's own table.

    python tests/truth/catalogue.py zz_generated.pricing_aws.go

The file is pkg/providers/pricing/zz_generated.pricing_aws.go of github.com/aws/karpenter-provider-aws. It is generated
from the price list, and says when. Types without a price stay, without one. Memory of GPUs is what they are sold as;
EC2 tells a little more for some. Fractions of a GPU (g6f, gr6f) are left out, since whoever asks for an L4 means a
whole one; they are rented by their names.
"""

from __future__ import annotations

import csv
import re
import sys
from pathlib import Path
from typing import Any

from moto.ec2.models.instance_types import INSTANCE_TYPES

FILE = Path(__file__).parents[2] / "sojourn" / "providers" / "machines.csv"
HEAD = "provider type cpus memory_gib gpu gpus gpu_memory_gb architecture price priced".split()
FAMILIES = """
    t3 t4g c6i c6a c7i c7a c8i c8a m6i m6a m7i m7a m8i m8a r6a r7i r7a r8i r8a c7g c8g m7g m8g r8g
    g4dn g5 g5g g6 gr6 g6e g7 g7e p4d p4de p5 p5e p5en p6-b200 p6-b300
    """.split()
LEFT_OUT = ("nano", "metal")  # too small for Python and its packages; slow to start
KEPT = ("g4dn.metal",)  # the only one with eight T4
# By EC2's name: as people say it, and its memory as it is sold, in GB.
GPUS = {
    "T4": ("T4", 16), "A10G": ("A10G", 24), "T4g": ("T4g", 16), "L4": ("L4", 24), "L40S": ("L40S", 48),
    "A100": ("A100", 40), "H100": ("H100", 80), "H200": ("H200", 141), "B200": ("B200", 180), "B300": ("B300", 288),
    "RTX PRO 4500": ("RTX-PRO-4500", 32), "RTX PRO Server 6000": ("RTX-PRO-6000", 96),
}  # fmt: skip
OF_TYPE = {"p4de.24xlarge": ("A100", 80)}


def main(table: str) -> None:
    prices, priced = read(Path(table).read_text(encoding="utf-8"))
    rows = [row(name, prices.get(name), priced) for name in sorted(INSTANCE_TYPES, key=order) if wanted(name)]
    with FILE.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([HEAD, *rows])


def read(table: str) -> tuple[dict[str, float], str]:
    """The prices of us-east-1, and the month they are of."""
    made = re.search(r"generated at (\d{4}-\d\d)-", table)
    home = re.search(r'"us-east-1": \{\n(.*?)\n\t\},', table, re.DOTALL)
    if made is None or home is None:
        raise SystemExit("this is not the table that was expected")
    return {name: float(price) for name, price in re.findall(r'"([a-z0-9.-]+)": ([\d.]+)', home[1])}, made[1]


def wanted(name: str) -> bool:
    family, _, size = name.partition(".")
    return name in KEPT or family in FAMILIES and not size.startswith(LEFT_OUT)


def order(name: str) -> tuple[int, int, str]:
    """Families as they stand above, each from small to large."""
    family = name.partition(".")[0]
    number = FAMILIES.index(family) if family in FAMILIES else len(FAMILIES)
    return number, INSTANCE_TYPES[name]["MemoryInfo"]["SizeInMiB"], name


def row(name: str, price: float | None, priced: str) -> list[Any]:
    told = INSTANCE_TYPES[name]
    gpus = told.get("GpuInfo", {}).get("Gpus", [])
    gpu, memory = OF_TYPE.get(name) or (GPUS[gpus[0]["Name"]] if gpus else ("", ""))
    architecture = told["ProcessorInfo"]["SupportedArchitectures"][-1]
    gib = told["MemoryInfo"]["SizeInMiB"] // 1024
    shown = "" if price is None else f"{price:.6f}".rstrip("0").rstrip(".")
    count = gpus[0]["Count"] if gpus else ""
    return ["aws", name, told["VCpuInfo"]["DefaultVCpus"], gib, gpu, count, memory, architecture, shown, priced]


if __name__ == "__main__":
    main(sys.argv[1])
