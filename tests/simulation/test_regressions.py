"""Histories that once broke a promise, each with the schedule that shows it."""

from __future__ import annotations

from simulation.exhaustive import ORCHESTRATOR, recorded, tried
from simulation.faults import Fault, Faults
from simulation.machine import Job
from simulation.schedule import draw, play
from simulation.trial import Setting, Trial
from simulation.verdict import entries


def test_a_run_whose_owner_died_between_its_last_two_writes_is_closed_by_the_reaper() -> None:
    points = recorded(Setting())
    closing = [point for point in points if point.name in ("store create ledger", "store put report.json")]
    trial = tried(Setting(), Fault(ORCHESTRATOR, closing[-2].number, "crash", "after"))
    assert not trial.broken
    (run,) = trial.plans
    assert f"control/digits/{run}/report.json" in trial.disk.objects


def test_a_sweep_just_after_the_deadline_leaves_agents_their_grace() -> None:
    trial = Trial(0, Setting(job=Job(1000.0, upload_s=30.0)))
    plan = trial.plan()
    trial.train(plan)
    trial.reaper(phase=trial.setting.deadline_s + 20.0)
    assert not trial.finish()


def test_a_run_that_was_left_between_two_attempts_is_closed_and_rents_no_more() -> None:
    trial = play(draw(69, "aws"))
    assert not trial.broken
    for run in trial.plans:
        assert [entry.kind for entry in entries(trial, run)].count("intent") == 1


def test_the_reaper_does_not_rent_for_a_run_whose_lost_machines_are_gone() -> None:
    def lose(faults: Faults) -> Trial:
        trial = Trial(1, Setting(job=Job(200.0)), faults)
        trial.amazon.reclaim_after = lambda instance: 30.0 if instance.is_spot else None
        trial.broken = trial.run()
        return trial

    first = lose(Faults())
    (run,) = first.plans
    gone = [at for at, entry in enumerate(entries(first, run)) if entry.kind == "gone"]
    assert len(gone) == 2, "the history is to have two attempts"
    lines = [point for point in first.faults.points if point.name == "store create ledger"]
    again = lose(Faults([Fault(ORCHESTRATOR, lines[gone[0]].number, "crash", "after")]))
    assert not again.broken
    assert [entry.kind for entry in entries(again, run)].count("intent") == 1
