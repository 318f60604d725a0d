"""Kinds of faults that schedules have, each alone: what comes of it, so that its guard can be seen to hold."""

from __future__ import annotations

from dataclasses import replace

import pytest

from simulation.machine import Mishap
from simulation.schedule import Jump, Run, Schedule, play
from simulation.screen import Screen
from simulation.script import Job
from simulation.test_layers import ALONE, ended_by
from simulation.trial import Setting, Trial
from simulation.verdict import TIMER_S, entries, ours, overshoot, written
from simulation.versions import UNKNOWN_KIND
from sojourn.lease.state import fold

WHERE = ["local", "aws"]
SCREENS = [Screen("stops"), Screen("is slow"), Screen("is full"), Screen("stops", after=70, seconds=300)]


def state_of(trial: Trial, run: str) -> str:
    outcome = fold(entries(trial, run)).outcome
    assert outcome is not None
    return outcome.state


def shown(where: str, screen: Screen | None, stopped_after: float | None) -> Trial:
    """A run that prints, to its end or until somebody stops it."""
    job = Job(60.0 if stopped_after is None else 500.0, prints=True)
    trial = Trial(0, Setting(where=where, job=job, deadline_s=900.0))
    plan = trial.plan()
    trial.train(plan, screen=screen)
    if stopped_after is not None:
        trial.stop(plan, after=stopped_after)
    assert not trial.finish()
    assert trial.ends["orchestrator"] == "done"
    assert state_of(trial, plan.run) == ("succeeded" if stopped_after is None else "stopped")
    return trial


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("stopped_after", [None, 90.0])
@pytest.mark.parametrize("screen", SCREENS, ids=lambda one: f"{one.what}-{one.after}".replace(" ", "-"))
def test_whoever_does_not_read_holds_up_neither_the_end_of_a_script_nor_a_stop_nor_a_release(
    where: str, stopped_after: float | None, screen: Screen
) -> None:
    unwatched, watched = (shown(where, one, stopped_after) for one in (None, screen))
    ends = zip(ours(unwatched), ours(watched), strict=True)
    assert all(one.ended_at == pytest.approx(other.ended_at, abs=1.0) for one, other in ends)
    assert any("screen" in told for told in watched.faults.injected)


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("begun", ["earlier", "later"])
@pytest.mark.parametrize("other", ["", "earlier", "later"])
def test_a_run_of_another_version_is_adopted_stopped_resumed_and_closed_by_whichever_comes(
    where: str, begun: str, other: str
) -> None:
    for mishap, stopped in ((None, None), ("agent dies" if where == "local" else "is taken back", None), (None, 200.0)):
        mishaps = {0: Mishap(mishap, 100)} if mishap else {}  # type: ignore[arg-type]
        trial = Trial(1, Setting(where=where, version=begun, job=Job(300.0), deadline_s=1500.0, mishaps=mishaps))
        plan = trial.plan()
        trial.world.later(80.0, trial.train(plan).kill)
        trial.attach(plan, after=90.0, version=other)
        if stopped is not None:
            trial.stop(plan, after=stopped)
        assert not trial.finish()
        assert trial.ends["adopter"] == "done"
        kinds = [entry.kind for entry in entries(trial, plan.run)]
        assert (UNKNOWN_KIND in kinds) == (begun == "later") and kinds[-1] == "closed"
        lost = mishap is not None and where == "local"
        assert state_of(trial, plan.run) == ("stopped" if stopped else "lost" if lost else "succeeded")


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("begun", ["earlier", "later"])
def test_a_run_of_another_version_that_nobody_continues_is_closed_by_a_sweep_of_ours(where: str, begun: str) -> None:
    trial = Trial(0, Setting(where=where, version=begun, job=Job(100.0), deadline_s=900.0))
    plan = trial.plan()
    trial.world.later(80.0, trial.train(plan).kill)
    trial.reaper(phase=300.0)
    assert not trial.finish()
    assert entries(trial, plan.run)[-1].kind == "closed" and state_of(trial, plan.run) == "succeeded"


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("seconds", [-86_400, -300, 300, 86_400])
def test_a_machine_whose_clock_is_set_ends_by_its_agent_alone_at_the_deadline_at_the_latest(
    where: str, seconds: int
) -> None:
    trial = ended_by(replace(ALONE, where=where, mishaps={0: Mishap("clock set", 60, seconds)}))
    (machine,) = ours(trial)
    assert machine.ended_at is not None and overshoot(trial) <= TIMER_S


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("seconds", [-86_400, 86_400])
def test_a_host_whose_clock_is_set_in_the_middle_of_its_sweep_ends_what_is_late_and_nothing_else(
    where: str, seconds: int
) -> None:
    run = Run(job=Job(900.0), deadline_s=1500)
    for after in range(595, 605):  # in the middle of the second sweep
        trial = play(Schedule(where, (run,), swept_at=0, sweeps_jump=Jump(after, seconds)))
        assert not trial.broken, after
        assert state_of(trial, next(iter(trial.plans))) == "succeeded", after


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("seconds", [-86_400, 86_400])
def test_a_sweep_from_a_host_whose_clock_was_set_leaves_a_run_without_an_owner_until_it_is_over(
    where: str, seconds: int
) -> None:
    for after in (300, 601, 603):
        trial = Trial(0, Setting(where=where, job=Job(900.0), deadline_s=1800.0))
        plan = trial.plan()
        trial.world.later(80.0, trial.train(plan).kill)
        trial.reaper(phase=0.0)
        trial.world.later(float(after), lambda trial=trial: trial.set_sweeps_clock(seconds))
        assert not trial.finish()
        (machine,) = ours(trial)
        taken = [at for at, entry in written(trial, plan.run) if entry.owner.startswith("reaper")]
        assert machine.ended_at is not None and min(taken) > machine.ended_at, after
        assert state_of(trial, plan.run) == "succeeded"
