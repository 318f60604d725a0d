"""Histories by chance against the promise that nothing stays behind: schedules of faults over simulated clouds.

Each schedule is drawn from its seed alone: some runs at once, orchestrators that die or whose
host sleeps, calls that fail before or after their effect, machines that freeze, are cut off or
taken back, people who attach or stop. The product's own code decides; tests/simulation says how.

    python benchmarks/faults.py --schedules 10000 --seed 1 --json
    python benchmarks/faults.py --where aws --seed 69 --schedules 1 --show    one history, replayed
    python benchmarks/faults.py --show --play '{"where": "aws", "runs": [{"crash_at": 30}]}'    as written down
    python benchmarks/faults.py --schedules 10000 --write docs/guarantee.md   its figures into the page
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from simulation.schedule import Schedule, play, seeded  # noqa: E402
from simulation.trial import Trial  # noqa: E402
from simulation.verdict import leaks, lost_commits, overshoot  # noqa: E402

WHERE = ("local", "aws")
CHUNK = 100  # schedules that a process takes at a time
BEGIN, END = "<!-- figures: benchmarks/faults.py -->", "<!-- end of figures -->"
KINDS = {
    "crash": "an orchestrator dies",
    "fail": "a call fails",
    "freezes": "a machine freezes",
    "dies": "an agent dies",
    "hangs": "an agent hangs",
}
KINDS |= {"away": "a machine loses its store", "taken back": "a machine is taken back"}
KINDS |= {"/": "an object in the store loses what it held", "clock set": "somebody sets a clock"}
KINDS |= {"screen": "a screen is slow, full or stopped", "version": "somebody runs another version"}
KINDS |= {"refused": "no machine is had", "suspended": "an orchestrator's host sleeps"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--schedules", type=int, default=1000, help="over all providers together")
    parser.add_argument("--seed", type=int, default=1, help="of the first schedule; the next ones count from it")
    parser.add_argument("--where", choices=WHERE, help="one provider instead of all")
    parser.add_argument("--jobs", type=int, default=1, help="processes that share the work")
    parser.add_argument("--json", action="store_true")
    parser.add_argument(
        "--play", type=Schedule.parse, metavar="JSON", help="this schedule alone, as a failing test names it"
    )
    parser.add_argument("--show", action="store_true", help="tell each history")
    parser.add_argument("--write", type=Path, help="a page whose figures are replaced")
    asked = parser.parse_args()
    if asked.play:
        return replayed(asked.play, asked.show)
    places = (asked.where,) if asked.where else WHERE
    each = asked.schedules // len(places)
    figures = {where: shared(where, asked.seed, each, asked.show, asked.jobs) for where in places}
    if asked.write:
        write(asked.write, figures, asked.seed)
    print(json.dumps(figures, indent=1) if asked.json else table(figures))
    return 1 if any(one["broken"] for one in figures.values()) else 0


def replayed(schedule: Schedule, show: bool) -> int:
    """Play one schedule and say what it broke; 1 where it did."""
    trial = play(schedule)
    if show:
        print("\n".join(trial.world.history))
    print("\n".join(trial.broken) or "every promise was kept")
    return 1 if trial.broken else 0


def shared(where: str, seed: int, schedules: int, show: bool, jobs: int) -> dict[str, Any]:
    """The figures of so many schedules, from this seed on, by so many processes."""
    if jobs == 1:
        return tried(where, seed, schedules, show)
    starts = range(seed, seed + schedules, CHUNK)
    sizes = [min(CHUNK, seed + schedules - start) for start in starts]
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        parts = list(pool.map(tried, repeat(where), starts, sizes, repeat(show)))
    kinds = sum((Counter(part["by_kind"]) for part in parts), Counter[str]())
    sums = {name: sum(part[name] for part in parts) for name in ("schedules", "faults", "leaks", "lost_commits")}
    return {
        **sums,
        "worst_overshoot_s": max(part["worst_overshoot_s"] for part in parts),
        "broken": [number for part in parts for number in part["broken"]],
        "by_kind": dict(sorted(kinds.items())),
        "cpu_s": round(sum(part["cpu_s"] for part in parts), 1),
    }


def tried(where: str, seed: int, schedules: int, show: bool) -> dict[str, Any]:
    """The figures of so many schedules, from this seed on."""
    began, faults, broken = time.process_time(), Counter[str](), []
    leaked = commits = 0
    worst = float("-inf")
    for number in range(seed, seed + schedules):
        trial = play(seeded(number, where))
        faults.update(map(kind, trial.faults.injected))
        leaked, commits = leaked + len(leaks(trial)), commits + len(lost_commits(trial))
        worst = max(worst, overshoot(trial))
        if trial.broken:
            broken.append(number)
            told(trial, where, number)
        if show:
            print("\n".join(trial.world.history), file=sys.stderr)
    return {
        "schedules": schedules,
        "faults": sum(faults.values()),
        "leaks": leaked,
        "lost_commits": commits,
        "worst_overshoot_s": round(worst, 1),
        "broken": broken,
        "by_kind": dict(sorted(faults.items())),
        "cpu_s": round(time.process_time() - began, 1),
    }


def kind(injected: str) -> str:
    """What sort of fault a line of the record tells of."""
    return next((text for word, text in KINDS.items() if word in injected), "another")


def told(trial: Trial, where: str, seed: int) -> None:
    """What broke, and the command that shows it again."""
    for text in trial.broken:
        print(f"{where} {seed}: {text}", file=sys.stderr)
    print(f"  python benchmarks/faults.py --where {where} --seed {seed} --schedules 1 --show", file=sys.stderr)


def table(figures: dict[str, dict[str, Any]]) -> str:
    """The figures as a table in Markdown."""
    head = "| provider | schedules | faults | leaks | lost commits | schedules that broke a promise | worst overshoot |"
    lines = [head, "|---|---|---|---|---|---|---|"]
    for where, one in figures.items():
        counts = f"{one['schedules']:,} | {one['faults']:,} | {one['leaks']} | {one['lost_commits']}"
        lines.append(f"| {where} | {counts} | {len(one['broken'])} | {one['worst_overshoot_s']:.0f} s |")
    return "\n".join(lines)


def write(page: Path, figures: dict[str, dict[str, Any]], seed: int) -> None:
    """Put the figures between the page's marks."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    when = f"{datetime.now(UTC):%Y-%m-%d}, commit {commit.stdout.strip()}, seeds from {seed} on"
    kinds = Counter[str]()
    for one in figures.values():
        kinds.update(one["by_kind"])
    said = ", ".join(f"{text} {count:,} times" for text, count in kinds.items())
    text = f"{BEGIN}\n{table(figures)}\n\n{when}. Injected: {said}.\n{END}"
    old = page.read_text(encoding="utf-8")
    page.write_text(re.sub(f"{BEGIN}.*?{END}", lambda _: text, old, flags=re.DOTALL), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
