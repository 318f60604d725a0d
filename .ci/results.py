"""What a test run says about itself: fewer tests than before fail, and a table tells where the time went.

usage: results.py check TESTS.xml MINIMUM-FILE      fails when fewer tests were selected or passed than the file says
       results.py few TESTS.xml                     names what did not pass; fails when that is more than a few tests
       results.py table TESTS.xml                   prints a Markdown table, a row for each test file
"""

from __future__ import annotations

import datetime
import os
import platform
import sys
import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from pathlib import Path


def check(results: Path, minimum: Path) -> int:
    """Compare the numbers of tests that were selected and that passed with those that must be.

    The two differ by the tests that may be skipped, each with its reason, on a host without root, tmpfs or an old
    Python.
    """
    cases = _cases(results)
    passed = [case for case in cases if all(case.find(word) is None for word in ("skipped", "failure", "error"))]
    wanted = dict(line.split() for line in minimum.read_text().splitlines())
    status = 0
    for word, number in (("selected", len(cases)), ("passed", len(passed))):
        if number < int(wanted[word]):
            print(f"{number} tests {word}, and {minimum} asks for {wanted[word]}: was one lost?", file=sys.stderr)
            status = 1
    if len(cases) > int(wanted["selected"]):
        print(f"{len(cases)} tests selected, more than {minimum} asks for: raise it")
    return status


FEW = 3


def few(results: Path) -> int:
    """Say which tests did not pass, and whether they are so few that they may be tried again by themselves."""
    bad = [case for case in _cases(results) if any(case.find(word) is not None for word in ("failure", "error"))]
    for case in bad:
        print(f"{case.get('classname')}::{case.get('name')} did not pass among the others", file=sys.stderr)
    return 0 if 0 < len(bad) <= FEW else 1


def table(results: Path) -> int:
    """Print tests, skips and seconds of each test file, the slowest first."""
    rows: dict[str, list[float]] = defaultdict(lambda: [0, 0, 0.0])
    for case in _cases(results):
        row = rows[case.get("classname", "").removeprefix("tests.").split(".Test")[0].replace(".", "/")]
        row[0] += 1
        row[1] += case.find("skipped") is not None
        row[2] += float(case.get("time", 0))
    today = datetime.date.today().isoformat()
    print("# What the tests take\n\nAll of them, four at a time, as `make test-long` wrote it.\n")
    print(f"{today}, {os.cpu_count()} cores, Python {platform.python_version()}\n")
    print("| tests | number | skipped | seconds |\n|---|---|---|---|")
    for name, (number, skipped, seconds) in sorted(rows.items(), key=lambda item: -item[1][2]):
        print(f"| {name} | {number:.0f} | {skipped:.0f} | {seconds:.0f} |")
    print(f"| all | {sum(row[0] for row in rows.values()):.0f} | {sum(row[1] for row in rows.values()):.0f} "
          f"| {sum(row[2] for row in rows.values()):.0f} |")  # fmt: skip
    return 0


def _cases(results: Path) -> list[ElementTree.Element]:
    return list(ElementTree.parse(results).iter("testcase"))


if __name__ == "__main__":
    verb, *paths = sys.argv[1:]
    sys.exit({"check": check, "few": few, "table": table}[verb](*(Path(path) for path in paths)))
