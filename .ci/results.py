"""What a test run says about itself: fewer tests than before fail, and a table tells where the time went.

usage: results.py check TESTS.xml MINIMUM-FILE      fails when fewer tests passed than the file says
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
    """Compare the number of tests that passed with the number that must."""
    passed = sum(1 for case in _cases(results) if case.find("skipped") is None and case.find("failure") is None)
    wanted = int(minimum.read_text())
    if passed < wanted:
        print(f"{passed} tests passed, and {minimum} asks for {wanted}: has one been lost?", file=sys.stderr)
        return 1
    if passed > wanted:
        print(f"{passed} tests passed, more than {minimum} asks for: raise it to {passed}")
    return 0


def table(results: Path) -> int:
    """Print tests, skips and seconds of each test file, the slowest first."""
    rows: dict[str, list[float]] = defaultdict(lambda: [0, 0, 0.0])
    for case in _cases(results):
        row = rows[case.get("classname", "").removeprefix("tests.").split(".Test")[0].replace(".", "/")]
        row[0] += 1
        row[1] += case.find("skipped") is not None
        row[2] += float(case.get("time", 0))
    today = datetime.date.today().isoformat()
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
    sys.exit({"check": check, "table": table}[verb](*(Path(path) for path in paths)))
