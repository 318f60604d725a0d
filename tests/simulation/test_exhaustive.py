"""The orchestrator dies, or a call fails, at every place where that can be; then the promises are looked after."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice

import pytest

from simulation.exhaustive import adopted, crashes, distinct, failures, recorded, tried
from simulation.faults import Fault, Point
from simulation.machine import Mishap
from simulation.script import Job
from simulation.trial import Refusal, Setting
from simulation.verdict import entries

WHERE = ["local", "aws"]
# One of two machines is lost in the middle of the script. At Amazon's two others go on from their checkpoint.
LOST = Setting(nodes=2, job=Job(60.0), mishaps={0: Mishap("is taken back", 60)})
LONGER = {
    "a second attempt": LOST,
    "the second offer": Setting(nodes=2, refusals=(Refusal(0, 1000, region="us-east-1"),)),
    "a loss on this host": replace(LOST, where="local", mishaps={0: Mishap("agent dies", 40)}),
}
RENTED = {"a second attempt": (2, 2), "the second offer": (2, 1), "a loss on this host": (1, 1)}  # intended, created
# Which of the histories are tried where not all are: of crashes, of crashes with somebody who attaches, of failures.
SOME = {"a second attempt": (15, 21, 33), "the second offer": (15, 21, 33), "a loss on this host": (5, 7, 11)}
SAMPLED = pytest.mark.parametrize(
    "nth", [pytest.param(10, id="some"), pytest.param(1, id="all", marks=pytest.mark.slow)]
)
pytestmark = pytest.mark.timeout(900)  # nothing in here waits; a host that is busy with other tests is slow


def broken(setting: Setting, faults: Callable[[list[Point]], Iterator[Fault]], nth: int = 1) -> dict[str, list[str]]:
    """What each fault broke, where it broke something; every nth of them is tried."""
    points = recorded(setting)
    points = points if setting.nodes == 1 else distinct(points)
    trials = {f"{fault}": tried(setting, fault) for fault in islice(faults(points), 0, None, nth)}
    print(f"{setting.where}: {len(points)} calls, {len(trials)} histories")
    assert len(trials) > (100 / nth if setting.nodes == 1 else 5)
    return {name: trial.broken for name, trial in trials.items() if trial.broken}


@SAMPLED
@pytest.mark.parametrize("where", WHERE)
def test_an_orchestrator_that_dies_anywhere_leaves_nothing_and_is_closed_by_the_reaper(where: str, nth: int) -> None:
    assert not broken(Setting(where=where), crashes, nth)


@SAMPLED
@pytest.mark.parametrize("where", WHERE)
def test_an_orchestrator_that_dies_anywhere_is_continued_by_whoever_attaches(where: str, nth: int) -> None:
    assert not broken(adopted(Setting(where=where)), crashes, nth)


@SAMPLED
@pytest.mark.parametrize("where", WHERE)
def test_a_call_that_fails_once_or_for_ever_leaves_nothing(where: str, nth: int) -> None:
    assert not broken(Setting(where=where), failures, nth)


@pytest.mark.parametrize("what", LONGER)
@pytest.mark.parametrize("sampled", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_with_two_machines_and_after_a_loss_it_is_the_same(what: str, sampled: bool) -> None:
    whole = tried(LONGER[what])
    (run,) = whole.plans
    kinds = Counter(entry.kind for entry in entries(whole, run))
    assert (kinds["intent"], kinds["created"]) == RENTED[what]
    dies, adopts, fails = SOME[what] if sampled else (1, 1, 1)
    assert not broken(LONGER[what], crashes, dies)
    assert not broken(adopted(LONGER[what]), crashes, adopts)
    assert not broken(LONGER[what], failures, fails)
