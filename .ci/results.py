"""What a test run says about itself: no test was lost, each folder keeps to its time, a table tells where it went.

usage: results.py check MINIMUM TESTS.xml...    fails when fewer tests were selected or passed than the file says
       results.py few TESTS.xml                 names what did not pass; fails when that is more than a few tests
       results.py budgets BUDGETS TESTS.xml     prints seconds by folder; fails when a budget is passed by half
       results.py table TESTS.xml               prints a Markdown table, a row for each test file

Of several files a later one counts more: it holds what was tried once more.
"""

from __future__ import annotations

import datetime
import os
import platform
import sys
import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

FEW = 8
PASSED_BY = 1.5
WALL = "wall"


@dataclass(frozen=True)
class Case:
    """One test of a run."""

    file: str  # below `tests`, without its suffix
    name: str
    seconds: float
    skipped: bool
    failed: bool

    @property
    def folder(self) -> str:
        return self.file.rpartition("/")[0] or "."


def check(minimum: Path, *results: Path) -> int:
    """Compare the numbers of tests that were selected and that passed with those that must be.

    The two differ by the tests that may be skipped, each with its reason, on a host without root, tmpfs or an old
    Python.
    """
    cases = {(case.file, case.name): case for file in results for case in _cases(file)}.values()
    passed = [case for case in cases if not case.skipped and not case.failed]
    wanted = _numbers(minimum)
    status = 0
    for word, number in (("selected", len(cases)), ("passed", len(passed))):
        print(f"{number} tests {word}, {wanted[word]:.0f} or more wanted")
        if number < wanted[word]:
            print(f"{number} tests {word}, and {minimum} asks for {wanted[word]:.0f}: was one lost?", file=sys.stderr)
            status = 1
    if len(cases) > wanted["selected"]:
        print(f"{len(cases)} tests selected, more than {minimum} asks for: raise it")
    return status


def few(results: Path) -> int:
    """Say which tests did not pass, and whether they are so few that they may be tried again by themselves."""
    bad = [case for case in _cases(results) if case.failed]
    for case in bad:
        print(f"{case.file}::{case.name} did not pass among the others", file=sys.stderr)
    return 0 if 0 < len(bad) <= FEW else 1


def budgets(allowed: Path, results: Path) -> int:
    """Print what each folder took beside what it may take, and name those that took half as much again."""
    taken = _by_folder(results)
    budget = _numbers(allowed)
    status = 0
    for name in sorted(taken.keys() | budget.keys(), key=lambda name: -taken.get(name, 0.0)):
        seconds, most = taken.get(name, 0.0), budget.get(name)
        if most is None:
            print(f"{name} has no budget: give it one in {allowed}", file=sys.stderr)
            status = 1
            continue
        print(f"{name:14} {seconds:6.0f} s of {most:4.0f}")
        if seconds > most * PASSED_BY:
            print(f"{name} took {seconds:.0f} s, and {allowed} allows {most:.0f}: what waits there?", file=sys.stderr)
            status = 1
    return status


def _by_folder(results: Path) -> dict[str, float]:
    """Seconds of test time by folder, and those of the whole run, in which several tests run at a time."""
    taken: dict[str, float] = defaultdict(float)
    for case in _cases(results):
        taken[case.folder] += case.seconds
    suite = next(ElementTree.parse(results).iter("testsuite"))
    return {**taken, WALL: float(suite.get("time", 0))}


def table(results: Path) -> int:
    """Print tests, skips and seconds of each test file, the slowest first."""
    rows: dict[str, list[float]] = defaultdict(lambda: [0, 0, 0.0])
    for case in _cases(results):
        for row in (rows[case.file], rows["all"]):
            row[0] += 1
            row[1] += case.skipped
            row[2] += case.seconds
    every = rows.pop("all")
    today = datetime.date.today().isoformat()
    print("# What the tests take\n\nAll of them, several at a time, as `make test-long` wrote it.")
    print("`tests/conftest.py` reads here which files to begin with.\n")
    print(f"{today}, {os.cpu_count()} cores, Python {platform.python_version()}\n")
    print("| tests | number | skipped | seconds |\n|---|---|---|---|")
    for name, (number, skipped, seconds) in [*sorted(rows.items(), key=lambda item: -item[1][2]), ("all", every)]:
        print(f"| {name} | {number:.0f} | {skipped:.0f} | {seconds:.0f} |")
    return 0


def _cases(results: Path) -> list[Case]:
    return [_case(element) for element in ElementTree.parse(results).iter("testcase")]


def _case(element: ElementTree.Element) -> Case:
    said = {child.tag for child in element}
    return Case(
        file=element.get("classname", "").removeprefix("tests.").split(".Test")[0].replace(".", "/"),
        name=".".join(filter(None, (element.get("classname", "").partition(".Test")[2], element.get("name", "")))),
        seconds=float(element.get("time", 0)),
        skipped="skipped" in said,
        failed=bool(said & {"failure", "error"}),
    )


def _numbers(file: Path) -> dict[str, float]:
    """A file of a word and a number in each line; what follows a # is for people."""
    lines = (line.partition("#")[0].split() for line in file.read_text(encoding="utf-8").splitlines())
    return {words[0]: float(words[1]) for words in lines if words}


if __name__ == "__main__":
    verb, *paths = sys.argv[1:]
    sys.exit({"check": check, "few": few, "budgets": budgets, "table": table}[verb](*map(Path, paths)))
