"""A machine to which nothing of this host exists: its Python environment is locked here and made there."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
from cli_world import World
from wheels import make_wheel

from cli.progress import SilentListener
from sojourn.names import mint_run_id
from sojourn.plan import text as plan_text
from sojourn.plan.planning import Plan, make_plan
from sojourn.project.project import Project
from sojourn.protocol import Order
from sojourn.providers.local import LocalProvider
from sojourn.renting import Capability, Need, Offers
from sojourn.results.report import Report
from sojourn.run.journey import Journey, walk
from sojourn.run.purge import Purged, purge
from sojourn.spec.launch import make_launch
from sojourn.store.mailbox import Mailbox

pytestmark = pytest.mark.local

HERE = f"{sys.version_info.major}.{sys.version_info.minor}"
REQUIREMENTS = "--no-index\n--find-links wheels\ntiny==1.0\n"
SCRIPT = """
    import sys, tiny
    open("model.txt", "w").write(f"{tiny.VERSION} in {sys.prefix}")
"""


class Away(LocalProvider):
    """Rents this host as if it were another one, whose image has this Python."""

    def capability(self) -> Capability:
        return super().capability().model_copy(update={"shares_host": False})

    def offers(self, need: Need) -> Offers:
        machine = {"architecture": os.uname().machine, "python": sys.version.split()[0]}
        found = super().offers(need.model_copy(update={"network": "internet"}))
        return Offers(fitting=tuple(offer.model_copy(update=machine) for offer in found.fitting))


class Steps(SilentListener):
    """Remembers what the steps said."""

    def __init__(self) -> None:
        self.said: dict[str, str] = {}

    def finished(self, step: str, text: str, seconds: float, good: bool = True) -> None:
        self.said[step] = text


@pytest.fixture
def here(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """The world as this process's own surroundings, with a tiny package to install."""
    for name, value in world.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(world.project)
    make_wheel(world.project / "wheels", "tiny", "1.0")
    world.script(REQUIREMENTS, "requirements.txt")
    world.script(SCRIPT)
    yield world


def plan_for(world: World, **asked: Any) -> Plan:
    return make_plan(
        make_launch({"command": ("python", "train.py"), "deadline": "60s", "grace": "2s", **asked}, origin="test"),
        Project.at(world.project),
        Away(world.home),
        run=mint_run_id(),
        store=world.store.url,
        home=world.home,
        now=time.time(),
    )


def travel(world: World, plan: Plan) -> tuple[Report, Steps, Order]:
    """The whole way, with what the steps said and what the machine was told."""
    steps, mailbox = Steps(), Mailbox(world.store, plan.project, plan.run)
    report = walk(Journey.begin(plan, mailbox, Away(world.home), world.home, steps))
    order = mailbox.read("order/1", Order)
    assert order is not None
    return report, steps, order


def test_the_machine_makes_the_environment_from_wheels_that_travel(here: World) -> None:
    plan = plan_for(here, network="none")
    shown = dict(plan_text.lines(plan))["environment"]
    size = next((here.project / "wheels").iterdir()).stat().st_size
    assert shown == f"requirements.txt, 1 package for Python {HERE}, {size} B of wheels by way of the store, once"

    report, steps, order = travel(here, plan)

    assert report.state == "succeeded", report
    assert (here.project / "model.txt").read_text().startswith(f"1.0 in {here.home}/machines/")
    assert order.path == () and order.environment == {}
    assert steps.said["environment"].startswith("1 package locked, ") and steps.said["environment"].endswith("MB sent")

    _, steps, again = travel(here, plan_for(here, network="none"))
    assert steps.said["environment"] == "1 package locked, unchanged" and again.setup == order.setup


def test_the_images_own_python_runs_where_nothing_is_asked_for(here: World) -> None:
    here.script("import os; open('model.txt', 'w').write(os.environ.get('VIRTUAL_ENV', 'none'))")
    os.environ["VIRTUAL_ENV"] = "/of/this/host"

    report, steps, order = travel(here, plan_for(here, environment="current"))

    assert report.state == "succeeded" and (here.project / "model.txt").read_text() == "none"
    assert steps.said["environment"] == "current"
    assert (order.setup, order.path, order.environment) == (None, (), {})


def test_an_environment_that_cannot_be_made_ends_the_run_with_the_words_of_uv(here: World) -> None:
    (here.project / "slow").mkdir()
    backend = 'requires = []\nbuild-backend = "faulty"\nbackend-path = ["."]\n'
    here.script(f'[build-system]\n{backend}[project]\nname = "slow"\nversion = "1"\n', "slow/pyproject.toml")
    here.script("raise RuntimeError('no compiler here')", "slow/faulty.py")
    here.script("setup(ext_modules=[Extension('slow.fast', ['fast.c'])])", "slow/setup.py")  # so it must be built
    here.script("--no-index\n./slow\n", "requirements.txt")

    report, _, _ = travel(here, plan_for(here))

    assert report.state == "refused" and "no compiler here" in report.message


def test_a_purge_leaves_what_a_run_that_is_not_closed_has_sent(here: World) -> None:
    plan = plan_for(here)
    mailbox = Mailbox(here.store, plan.project, plan.run)
    steps = Steps()
    journey = Journey.begin(plan, mailbox, Away(here.home), here.home, steps)
    journey.bundle()
    journey.data()
    assert "it is being prepared" in purge_all(here).kept[0].reason
    journey.environment()
    assert purge_all(here).blobs == 0

    steps.said.clear()
    journey.environment()
    assert steps.said == {}, "whoever continues the run finds it done"

    os.utime(here.home / "environments/wheels/ready", (0, 0))
    assert purge_all(here, remove=False).environments == ("wheels",)


def purge_all(here: World, remove: bool = True) -> Purged:
    """Remove what may go, as if it were years later for all but this run."""
    return purge(here.store, here.home, now=time.time(), older_than_s=-10, remove=remove)
