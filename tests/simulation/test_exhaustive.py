"""The orchestrator dies, or a call fails, at every place where that can be; then the promises are looked after."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from simulation.exhaustive import adopted, crashes, failures, recorded, tried
from simulation.faults import Fault, Point
from simulation.trial import Setting

WHERE = ["local", "aws"]
pytestmark = pytest.mark.timeout(900)  # nothing in here waits; a host that is busy with other tests is slow


def broken(setting: Setting, faults: Callable[[list[Point]], Iterator[Fault]]) -> dict[str, list[str]]:
    """What each fault broke, where it broke something."""
    points = recorded(setting)
    trials = {f"{fault}": tried(setting, fault) for fault in faults(points)}
    print(f"{setting.where}: {len(points)} calls, {len(trials)} histories")
    assert len(trials) > 100
    return {name: trial.broken for name, trial in trials.items() if trial.broken}


@pytest.mark.parametrize("where", WHERE)
def test_an_orchestrator_that_dies_anywhere_leaves_nothing_and_is_closed_by_the_reaper(where: str) -> None:
    assert not broken(Setting(where=where, copied=True), crashes)


@pytest.mark.parametrize("where", WHERE)
def test_an_orchestrator_that_dies_anywhere_is_continued_by_whoever_attaches(where: str) -> None:
    assert not broken(adopted(Setting(where=where)), crashes)


@pytest.mark.parametrize("where", WHERE)
def test_a_call_that_fails_once_or_for_ever_leaves_nothing(where: str) -> None:
    assert not broken(Setting(where=where), failures)
