"""Damaged bytes against every reader of what somebody else wrote: records of a store, files of a script, of a user.

Each reader may answer or raise an error of ours, within a second of work, and hold on to nothing.

    python benchmarks/fuzz.py --seconds 600 --jobs 2 --json
    python benchmarks/fuzz.py --reader "event file" --seed 7 --seconds 60
    python benchmarks/fuzz.py --seconds 600 --write docs/robustness.md   its figures into the page
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path
from random import Random
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]

from fuzz.mutations import mutated  # noqa: E402
from fuzz.readers import Fault, fault_of, readers  # noqa: E402

BEGIN, END = "<!-- figures: benchmarks/fuzz.py -->", "<!-- end of figures -->"
SLICE_S = 0.2  # a reader's turn
SETTLES = 10  # of the turns of all readers; what a process holds after so many, it needs


def tried(seed: int, seconds: float, only: str | None) -> dict[str, Any]:
    """What this many seconds of one process bring: counts by reader, faults, and bytes that it grew by."""
    chance, counts, faults = Random(seed), Counter[str](), list[Fault]()
    chosen = [reader for reader in readers() if only in (None, reader.name)]
    until, turns, settled = time.monotonic() + seconds, 0, 0
    while time.monotonic() < until:
        for reader in chosen:
            turn = time.monotonic() + SLICE_S
            while time.monotonic() < turn:
                fault = fault_of(reader, mutated(chance.choice(reader.samples), chance))
                counts[reader.name] += 1
                if fault is not None:
                    faults.append(fault)
        turns += 1
        if turns == SETTLES:
            settled = _peak()
    return {"counts": counts, "faults": faults, "grown": _peak() - settled if settled else 0}


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def figures(results: list[dict[str, Any]], seconds: float, seed: int) -> dict[str, Any]:
    """All processes together."""
    counts: Counter[str] = sum((result["counts"] for result in results), Counter())
    faults = [fault for result in results for fault in result["faults"]]
    hangs = sum("is not done" in fault.what for fault in faults)
    return {
        "inputs": counts.total(),
        "readers": len(counts),
        "crashes": len(faults) - hangs,
        "hangs": hangs,
        "grown_mb": round(max(result["grown"] for result in results) / 1e6, 1),
        "seconds": seconds,
        "seed": seed,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }


def write(found: dict[str, Any], page: Path) -> None:
    """Put the figures between their marks."""
    text = (
        f"{found['inputs']:,} damaged inputs to {found['readers']} readers in {found['seconds']:g} s (seed "
        f"{found['seed']}, {found['date']}): {found['crashes']} crashes, {found['hangs']} hangs, "
        f"{found['grown_mb']:g} MB more memory."
    )
    page.write_text(re.sub(f"{BEGIN}.*?{END}", f"{BEGIN}\n{text}\n{END}", page.read_text(), flags=re.DOTALL))


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1, help="of the first process; the next ones count from it")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--reader", help="this one alone")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the figures into this page")
    chosen = parser.parse_args()
    if chosen.reader and chosen.reader not in {reader.name for reader in readers()}:
        parser.error(f"--reader: there is no {chosen.reader!r}; {', '.join(reader.name for reader in readers())}")
    seeds = range(chosen.seed, chosen.seed + chosen.jobs)
    with ProcessPoolExecutor(chosen.jobs, mp_context=get_context("spawn")) as pool:
        results = list(pool.map(tried, seeds, repeat(chosen.seconds), repeat(chosen.reader)))
    found = figures(results, chosen.seconds, chosen.seed)
    for fault in {(one.reader, one.what[:60]): one for result in results for one in result["faults"]}.values():
        print(fault, file=sys.stderr)
    if chosen.write:
        write(found, chosen.write)
    print(json.dumps(found, indent=2) if chosen.json else "  ".join(f"{name} {value}" for name, value in found.items()))
    return 1 if found["crashes"] or found["hangs"] else 0


if __name__ == "__main__":
    sys.exit(main())
