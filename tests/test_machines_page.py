"""docs/machines.md says what is so: its sizes, its example, and the plan that it shows."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from clouds.aws_cloud import AwsCloud

from sojourn.clouds.account import differences
from sojourn.clouds.aws.clients import Clients
from sojourn.clouds.aws.setup.pieces import pieces
from sojourn.providers.catalogue import candidates
from sojourn.renting import Need
from sojourn.spec.launch import read_launch

FILE = Path(__file__).parent.parent / "docs/machines.md"
PAGE = FILE.read_text(encoding="utf-8")
SOJOURN = Path(sys.executable).parent / "sojourn"
HEADINGS = ("machine", "then", "time", "money", "makes")


def test_the_sizes_are_those_of_the_catalogue() -> None:
    rows = re.findall(r"^\| `([a-z0-9+]+)` \| (.+?) \| (\S+) \|$", PAGE, re.MULTILINE)
    assert len(rows) == 14
    for size, shown, cheapest in rows:
        first = candidates(Need(machine=size), "aws")[0]
        assert (size, cheapest) == (size, first.name)
        assert shown == first.shown_gpus or "+" not in size


def test_the_example_is_a_need(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(PAGE.split("```yaml\n")[1].split("```")[0])
    need = read_launch(tmp_path, {}).need()
    assert [one.name for one in candidates(need, "aws")] == ["g6.24xlarge"]


def test_the_plan_is_what_the_command_shows_and_nothing_is_made(aws: AwsCloud, tmp_path: Path) -> None:
    for change in differences(pieces(Clients(), "digits")):
        change.apply()
    for code in ("L-DB2E81BA", "L-3819A6DF"):
        aws.quota(code, 64)
    for zone in "abcdf":
        aws.spot_price("g6.xlarge", f"us-east-1{zone}", 0.34 if zone == "b" else 0.4)
        aws.spot_price("g6.2xlarge", f"us-east-1{zone}", 0.5)
    project = tmp_path / "digits"
    project.mkdir()
    (project / "train.py").touch()
    begun = len(aws.calls())
    shown = PAGE.split("```\n$ ")[1].split("```")[0]

    done = subprocess.run(
        [SOJOURN, *shlex.split(shown.splitlines()[0])[1:]],
        cwd=project,
        env={**os.environ, "SOJOURN_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.split(" ")[0] in HEADINGS]
    timeless = [re.sub(r"gone by .* whatever", "gone by 16:20:00 whatever", line) for line in lines]
    printed = "\n".join([shown.splitlines()[0], *timeless, ""])
    if os.environ.get("UPDATE_GOLDEN"):
        FILE.write_text(PAGE.replace(shown, printed), encoding="utf-8")
    assert printed == shown
    said = {call["action"] for call in aws.calls()[begun:]}
    assert {action for action in said if not action.startswith(("Describe", "Get", "Head", "List"))} == set()
