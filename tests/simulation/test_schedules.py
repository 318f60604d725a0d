"""Schedules of faults by chance; what fails is shrunk, and names the command that plays it again."""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from simulation.machine import Mishap
from simulation.schedule import MISHAPS, SCREENS, Schedule, draw, play, seeded
from simulation.trial import Setting, Trial
from simulation.versions import VERSIONS

pytestmark = pytest.mark.timeout(900)  # nothing in here waits; a host that is busy with other tests is slow
WHERE = ["local", "aws"]


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("examples", [20, pytest.param(60, marks=pytest.mark.slow)])
def test_whatever_goes_wrong_the_promises_are_kept(where: str, examples: int) -> None:
    @settings(max_examples=examples, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(chance=st.randoms(use_true_random=False))
    def the_promises_are_kept(chance: random.Random) -> None:
        schedule = draw(chance, where)
        broken = play(schedule).broken
        assert not broken, f"play it again: python benchmarks/faults.py --show --play '{schedule}'"

    the_promises_are_kept()


def test_what_fails_is_shrunk_to_the_faults_that_matter_and_can_be_played_again() -> None:
    found: dict[str, Schedule] = {}

    @settings(max_examples=1000, derandomize=True, deadline=None, database=None, phases=[Phase.generate, Phase.shrink])
    @given(chance=st.randoms(use_true_random=False))
    def nothing_ever_hangs(chance: random.Random) -> None:
        found["last"] = draw(chance, "aws")
        assert not any(one.what == "agent hangs" and one.after > 70 for one in found["last"].mishaps.values())

    with pytest.raises(AssertionError):
        nothing_ever_hangs()
    (text,) = {str(found["last"])}
    assert len(text) < 100 and Schedule.parse(text) == found["last"]
    assert list(found["last"].mishaps.values()) == [Mishap("agent hangs", 71, 5)]


def test_the_same_schedule_is_the_same_history() -> None:
    schedule = seeded(1, "aws")
    histories = [play(one).world.history for one in (schedule, Schedule.parse(str(schedule)))]
    assert histories[0] == histories[1] != []


def test_schedules_have_several_runs_at_once_and_every_kind_of_fault() -> None:
    drawn = [seeded(number, where) for where in WHERE for number in range(200)]
    assert sum(_at_once(one) > 1 for one in drawn) > 100
    mishaps = {mishap.what for one in drawn for mishap in one.mishaps.values()}
    assert mishaps == set(MISHAPS)
    runs = [run for one in drawn for run in one.runs]
    assert {run.version for run in runs} == {other.version for run in runs for other in run.adopters} == set(VERSIONS)
    assert {run.screen.what for run in runs if run.screen} == set(SCREENS)
    assert any(one.sweeps_jump for one in drawn) and any(run.jump for run in runs)
    assert any(other.jump for run in runs for other in run.adopters)


def _at_once(schedule: Schedule) -> int:
    """How many of its runs begin before the first one's script could have come to its end."""
    first = min(schedule.runs, key=lambda run: run.after)
    return sum(run.after <= first.after + first.job.seconds for run in schedule.runs)


@pytest.mark.parametrize("where", WHERE)
def test_a_history_without_faults_ends_well_and_soon(where: str) -> None:
    trial = Trial(0, Setting(where=where))
    assert not trial.run()
    assert trial.ends == {"orchestrator": "done"}
