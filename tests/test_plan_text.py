"""What a plan says to a person: which machine, at what price, until when, and what if there is none."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from sojourn.plan import text as plan_text
from sojourn.plan.planning import Plan, make_plan
from sojourn.plan.text import NEXT, restored
from sojourn.project.project import Project
from sojourn.protocol import Checkpoint
from sojourn.providers.local import LocalProvider
from sojourn.records import FileEntry
from sojourn.renting import Capability, Market, Need, Offer, Offers
from sojourn.spec.launch import make_launch

GOLDEN = Path(__file__).with_name("golden") / "plan.txt"
NOW = 1_800_000_000.0  # 08:00:00 UTC


def offer(machine: str, zone: str, market: Market, price: float, **more: Any) -> Offer:
    values = {"region": zone[:-1], "cpus": 4, "memory": 16 * 2**30, "gpus": ("L4",), "gpu_memory": 24 * 10**9}
    return Offer(provider="cloud", machine=machine, place=zone, market=market, price=price, **{**values, **more})


OFFERS = (
    offer("g6.xlarge", "us-east-2b", "spot", 0.34, quota="8 of 64 vCPUs"),
    offer("g6.xlarge", "us-east-2a", "spot", 0.35),
    offer("g6.xlarge", "us-east-2c", "on-demand", 0.8197),
    offer("g6.2xlarge", "us-east-2c", "on-demand", 0.99, price_note="that of us-east-1 in 2025-06"),
    offer("g6.2xlarge", "us-east-2a", "on-demand", 0.99),
)


HERE = Offer(provider="x", machine="this-host", place="pc", price=0, cpus=8, memory=16 * 10**9)


class Cloud:
    """A cloud that gives these offers to every need."""

    def __init__(self, offers: tuple[Offer, ...], remarks: tuple[str, ...]) -> None:
        self._offers = Offers(fitting=offers, remarks=remarks)

    def offers(self, need: Need) -> Offers:
        return self._offers

    def capability(self) -> Capability:
        layers = {"machine timer": "the machine switches itself off", "cloud timer": "a schedule terminates it"}
        once = ("schedule",)
        return Capability(provider="cloud", layers=layers, makes_each=("instance", "volume"), makes_once=once)


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "digits"
    (folder / "data").mkdir(parents=True)
    (folder / "train.py").write_text("pass\n")
    (folder / "data/a.bin").write_bytes(b"x" * 2_000_000)
    return folder


def plan(project: Path, offers: tuple[Offer, ...] = OFFERS, remarks: tuple[str, ...] = (), **asked: Any) -> Plan:
    return make_plan(
        make_launch({"command": ("python", "train.py"), **asked}, origin="test"),
        Project.at(project),
        Cloud(offers, remarks),  # type: ignore[arg-type]
        run="quiet-heron-7f3a",
        store="file:///srv/runs",
        home=project.parent / "home",
        now=NOW,
        surroundings={"PATH": str(Path(sys.executable).parent)},
    )


def said(made: Plan) -> dict[str, str]:
    return dict(plan_text.lines(made))


def test_the_plan_for_a_cloud_is_the_golden_one(project: Path) -> None:
    made = plan(project, nodes=2, deadline="1h", inputs=["data"], remarks=("there is no default subnet (us-east-2d)",))
    written = "".join(f"{heading:<12}{text}\n" for heading, text in plan_text.lines(made))

    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.write_text(written, encoding="utf-8")
    assert written == GOLDEN.read_text(encoding="utf-8")


def test_the_plan_for_this_host_is_eight_lines_that_say_what_the_full_one_says(project: Path) -> None:
    made = plan(project, (HERE,), deadline="2h").model_copy(update={"capability": LocalProvider(project).capability()})
    assert plan_text.short(made) == [
        ("run", "quiet-heron-7f3a    python train.py"),
        ("source", "project digits: 2 files, 2.0 MB"),
        ("environment", "the python on your PATH"),
        ("machine", "1 × this-host  8 CPUs, 16 GB  pc  costs nothing"),
        ("time", "deadline 2h, 1m more to leave"),
        ("makes", "1 supervisor, 1 scratch folder: gone by 10:01:00 if this host is on"),
        ("leaves", "results, logs and bundle in file:///srv/runs"),
    ], "with the line that nothing was created"
    whole = said(made)
    assert (whole["money"], whole["inputs"], whole["command"]) == ("at most $0.00", "none", "python train.py")


def test_the_short_plan_leaves_out_nothing_that_is_not_usual(project: Path) -> None:
    made = plan(project, nodes=2, deadline="1h", inputs=["data"], remarks=("there is no default subnet",))
    short = dict(plan_text.short(made))
    assert short["money"] == said(made)["money"] and short["inputs"].startswith("1 file")
    assert short["makes"] == said(made)["makes"] and "ends by" not in short
    assert short["note"] == "there is no default subnet"
    assert {"run", "machine", "then", "time"} < short.keys()


def test_a_long_command_has_a_line_of_its_own(project: Path) -> None:
    short = dict(plan_text.short(plan(project, (HERE,), command=("python", "train.py", "x" * 90))))
    assert short["command"].endswith("x" * 90) and short["run"] == "quiet-heron-7f3a    project digits"


def test_what_costs_nothing_has_no_price_and_one_offer_no_other(project: Path) -> None:
    shown = said(plan(project, (HERE,)))

    assert shown["machine"] == "1 × this-host  8 CPUs, 16 GB  pc"
    assert "then" not in shown
    assert shown["money"] == "at most $0.00"


def test_money_is_about_the_first_offer_for_the_usual_time_and_at_most_the_dearest_to_the_end(project: Path) -> None:
    made = plan(project, OFFERS[:3], nodes=2, deadline="59m", grace="60s")
    assert said(made)["money"] == "at most $1.64"
    assert said(made.model_copy(update={"expected_s": 1800.0}))["money"] == "about $0.34, at most $1.64"


def test_a_guessed_price_is_said_to_be_one(project: Path) -> None:
    shown = said(plan(project, OFFERS[3:]))
    assert shown["machine"].endswith("us-east-2c  on demand  about $0.99/h each  (that of us-east-1 in 2025-06)")
    assert shown["money"].endswith(", by prices that are partly estimates")


def test_what_is_read_from_another_region_is_part_of_the_ceiling(project: Path) -> None:
    near, far = (
        plan(project, (offer("g6.xlarge", "a", "spot", 0.0, transfer=price),), nodes=2) for price in (0.0, 20.0)
    )
    assert (near.ceiling, round(far.ceiling, 2)) == (0.0, 0.08), "2 machines, 2 MB each"
    assert said(far)["money"] == "at most $0.08, $0.08 of it for data from another region"
    assert said(near)["money"] == "at most $0.00"


def test_a_budget_ends_the_lease_itself_and_is_shown(project: Path) -> None:
    made = plan(project, OFFERS[:3], budget="$0.50", nodes=2)

    assert made.boot(1, 0).deadline_at == pytest.approx(NOW + 0.5 / 0.68 * 3600 - 180)
    assert made.boot(1, 2).deadline_at == made.boot(2, 0).deadline_at == pytest.approx(NOW + 0.5 / 1.6394 * 3600 - 180)
    assert said(made)["time"].endswith("1m more to leave; the budget ends it after 41m 7s")
    assert said(made)["money"] == "at most $0.50, budget $0.50"
    assert "budget" not in said(plan(project, budget="50 USD"))["time"]


def test_small_prices_keep_their_digits(project: Path) -> None:
    assert "spot  $0.0035/h each" in said(plan(project, (offer("t3.micro", "us-east-1a", "spot", 0.00352),)))["machine"]


def test_an_end_on_another_day_has_its_date(project: Path) -> None:
    assert said(plan(project, deadline="2h"))["makes"].endswith("gone by 10:01:00 whatever happens")
    assert said(plan(project, deadline="1d"))["makes"].endswith("gone by Sat 16 Jan 08:01:00 whatever happens")


def test_many_remarks_are_cut_short(project: Path) -> None:
    notes = [text for heading, text in plan_text.lines(plan(project, remarks=tuple("abcdefgh"))) if heading == "note"]
    assert notes == [*"abcde", "3 more of the kind: sojourn plan --json"]


def test_a_hold_is_shown_with_what_it_may_take_of_the_ceiling(project: Path) -> None:
    asked = plan(project, OFFERS[:3], nodes=2, deadline="59m", grace="60s", hold_on_failure="20m")
    assert said(asked)["hold"].endswith("stay for 20m at most, to look at them, up to $0.55 of the money above")
    assert said(asked)["money"] == "at most $1.64", "the ceiling goes to the deadline anyway"
    assert "stay for 5m at most" in said(plan(project, deadline="5m", hold_on_failure="20m"))["hold"]
    assert "hold" not in said(plan(project))


def test_the_plan_says_what_of_a_project_the_flags_of_uv_run_ask_for(project: Path) -> None:
    needs = '[project]\nname = "x"\nversion = "1"\ndependencies = []\n[dependency-groups]\ndev = []\ndocs = []\n'
    (project / "pyproject.toml").write_text(needs)
    (project / "uv.lock").write_text("version = 1\n")
    here = LocalProvider(project).capability()

    class Here(Cloud):
        def capability(self) -> Capability:
            return here

    words = ("uv", "run", "--no-dev", "--group", "docs", "train.py")
    made = make_plan(
        make_launch({"command": words}, origin="test"), Project.at(project), Here((HERE,), ()),  # type: ignore[arg-type]
        run="quiet-heron-7f3a", store="file:///srv/runs", home=project.parent / "home", now=NOW,
    )  # fmt: skip

    assert said(made)["environment"] == "uv.lock --group docs --no-dev (to build)"


def test_a_checkpoint_is_named_as_its_user_knows_it() -> None:
    def named(*paths: str) -> str:
        files = tuple(FileEntry(path=path, hash="sha256:0", size=1, source="s") for path in paths)
        return restored(Checkpoint(run="calm-panda-a2e3", attempt=1, sequence=1, at=0.0, files=files))

    assert named("out/checkpoint-45/model.bin", "out/checkpoint-45/optimizer.pt") == "out/checkpoint-45"
    assert named("last.pt") == "last.pt"
    assert named(*(f"rank-{rank}.pt" for rank in range(9))).startswith("rank-0.pt, rank-1.pt, ")
    assert named(*(f"rank-{rank}.pt" for rank in range(9))).endswith(f" and {9 - NEXT} more")
