"""Histories that once broke a promise, each with the faults that show it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from simulation.exhaustive import ORCHESTRATOR, recorded, tried
from simulation.faults import Fault, Faults, Outage
from simulation.machine import Mishap
from simulation.schedule import Damage, Run, Schedule, play
from simulation.script import Job
from simulation.trial import AGENT, Refusal, Setting, Trial
from simulation.verdict import entries, ours, resumed, written
from simulation.world import START, Process
from sojourn.agent.pack import Archive
from sojourn.lease.state import fold
from sojourn.providers.contract import Provider
from sojourn.providers.ec2.provider import Ec2Provider

# Its first machine is taken back, and it goes on with another; there is time for that also at the next sweep.
LOSING = Setting(job=Job(200.0), mishaps={0: Mishap("is taken back", 60)}, deadline_s=1500.0)


def test_a_run_whose_owner_died_between_its_last_two_writes_is_closed_by_the_reaper() -> None:
    points = recorded(Setting())
    closing = [point for point in points if point.name in ("store create ledger", "store put report.json")]
    trial = tried(Setting(), Fault(ORCHESTRATOR, closing[-2].number, "crash", "after"))
    assert not trial.broken
    (run,) = trial.plans
    assert f"control/digits/{run}/report.json" in trial.disk.objects


def test_a_run_that_an_earlier_version_planned_is_continued_resumed_stopped_and_reaped_where_it_lies() -> None:
    earlier = replace(LOSING, version="earlier")
    trial = Trial(0, earlier)
    assert not trial.run()
    (run,) = trial.plans
    assert [entry.kind for entry in entries(trial, run)].count("intent") == 2 and resumed(trial, run)
    assert {key.split("/")[0] for key in trial.disk.objects} == {"control", "machine"}
    reaped = Trial(0, earlier, Faults([Fault(ORCHESTRATOR, 60, "crash", "after")]))
    assert not reaped.run() and entries(reaped, run)[-1].kind == "closed"
    stopped = Trial(0, replace(earlier, mishaps={}))
    plan = stopped.plan()
    stopped.train(plan)
    stopped.stop(plan, after=100.0)
    assert not stopped.finish() and f"control/digits/{plan.run}/stop.json" in stopped.disk.objects


def test_a_sweep_just_after_the_deadline_leaves_agents_their_grace() -> None:
    trial = Trial(0, Setting(job=Job(1000.0, upload_s=30.0)))
    plan = trial.plan()
    trial.train(plan)
    trial.reaper(phase=trial.setting.deadline_s + 20.0)
    assert not trial.finish()


def test_a_run_that_was_left_between_two_attempts_is_closed_and_rents_no_more() -> None:
    for name in ("scheduler.delete_schedule", "store create ledger"):
        trial = died_at(name, after="lost")
        (run,) = trial.plans
        assert [entry.kind for entry in entries(trial, run)].count("intent") == 1


def test_the_reaper_does_not_rent_for_a_run_whose_lost_machines_are_gone() -> None:
    trial = died_at("store create ledger", after="gone")
    (run,) = trial.plans
    assert [entry.kind for entry in entries(trial, run)].count("intent") == 1


def test_scripts_that_are_stopped_while_they_write_a_checkpoint_leave_the_one_before() -> None:
    for second in range(60, 75):
        run = Run(nodes=2, job=Job(1000.0), stopped_after=second)
        assert not play(Schedule(where="local", runs=(run,))).broken, second


def test_a_former_owner_that_cannot_see_its_machines_leaves_the_receipt_of_who_closed_the_run() -> None:
    whole = Trial(0, Setting())
    run = whole.plan().run
    whole.train(whole.plans[run])
    assert not whole.finish()
    released = next(int(at - START) + 1 for at, entry in written(whole, run) if entry.kind == "release")
    trial = Trial(0, Setting(), Faults(outages=[Outage(released, 1000, of=f"{ORCHESTRATOR}: ec2")]))
    plan = trial.plan()
    trial.train(plan)
    trial.attach(plan, after=released + 30.0, take_over=True)
    trial.reaper(phase=1000.0)
    assert not trial.finish()
    assert trial.ends["adopter"] == "done"
    assert trial.ends[ORCHESTRATOR].startswith("superseded")


def test_an_owner_that_slept_between_two_tries_to_rent_does_not_rent_for_a_run_that_was_closed_meanwhile() -> None:
    trial = Trial(0, Setting(deadline_s=900.0), Faults(outages=[Outage(0, 40, of=f"{ORCHESTRATOR}: ec2.run")]))
    plan = trial.plan()
    owner = trial.train(plan)
    trial.world.later(20.0, lambda: owner.suspend(400.0))
    trial.stop(plan, after=25.0)
    trial.attach(plan, after=30.0, take_over=True)
    assert not trial.finish()
    assert ours(trial) == [] and trial.ends["adopter"] == "done"


def test_a_store_that_answers_late_to_the_plan_is_no_clock_that_is_wrong() -> None:
    late = Outage(0, 58, of="store create plan", when="after")  # it is written, and nobody hears of it
    assert not play(Schedule(where="local", runs=(Run(skew=10),), outages=(late,))).broken


def test_a_machine_that_is_taken_back_is_replaced_though_its_script_saves_and_exits_with_0() -> None:
    taken = {0: Mishap("is taken back", 30)}
    trial = Trial(0, Setting(job=Job(200.0, listens=True), mishaps=taken, deadline_s=1500.0))
    assert not trial.run()
    (run,) = trial.plans
    kinds = [entry.kind for entry in entries(trial, run)]
    assert kinds.count("intent") == 2 and fold(entries(trial, run)).outcome.state == "succeeded"  # type: ignore[union-attr]


def test_a_script_that_comes_to_its_end_in_the_time_of_the_notice_has_succeeded() -> None:
    for taken_after in range(24, 70, 2):
        taken = {0: Mishap("is taken back", taken_after)}
        trial = Trial(0, Setting(job=Job(40.0, listens=True), mishaps=taken, deadline_s=1500.0))
        assert not trial.run(), taken_after
        (run,) = trial.plans
        assert fold(entries(trial, run)).outcome.state == "succeeded", taken_after  # type: ignore[union-attr]


@pytest.mark.parametrize("off", [86_400.0, 300.0, -300.0, -86_400.0])
def test_a_sweep_from_a_host_whose_clock_is_wrong_ends_what_is_late_and_nothing_else(off: float) -> None:
    trial = Trial(0, Setting(job=Job(1000.0), deadline_s=1500.0))
    plan = trial.plan()
    trial.train(plan)
    trial.reaper(phase=60.0, skew=off)
    assert not trial.finish()
    outcome = fold(entries(trial, plan.run)).outcome
    assert outcome is not None and outcome.state == "succeeded"
    frozen = Trial(0, Setting(job=Job(1000.0), timers=False, machine_timers=False, mishaps={0: Mishap("freezes", 60)}))
    plan = frozen.plan()
    frozen.world.later(90.0, frozen.train(plan).kill)
    frozen.reaper(phase=60.0, skew=off)
    assert not frozen.finish() and all(one.ended_at for one in ours(frozen))


@pytest.mark.parametrize("seconds", [86_400.0, -86_400.0])
def test_a_clock_that_is_set_while_a_run_goes_on_changes_nothing(seconds: float) -> None:
    trial = Trial(0, Setting(job=Job(300.0), deadline_s=900.0))
    plan = trial.plan()
    owner = trial.train(plan)
    trial.world.later(120.0, lambda: owner.clock.jump(seconds))
    assert not trial.finish()
    outcome = fold(entries(trial, plan.run)).outcome
    assert outcome is not None and outcome.state == "succeeded"


def test_whoever_attaches_with_a_wrong_clock_takes_no_machine_from_a_run_that_goes_on() -> None:
    trial = Trial(0, Setting(job=Job(300.0), deadline_s=900.0))
    plan = trial.plan()
    trial.world.later(60.0, trial.train(plan).kill)
    trial.attach(plan, after=80.0, skew=86_400.0)
    assert not trial.finish()
    outcome = fold(entries(trial, plan.run)).outcome
    assert outcome is not None and outcome.state == "succeeded" and trial.ends["adopter"] == "done"


def test_a_run_that_is_refused_for_its_clock_leaves_no_plan() -> None:
    trial = Trial(0, Setting())
    plan = trial.plan()
    trial.train(plan, skew=86_400.0)
    trial.world.run(START + 100.0)
    trial.world.end()
    assert "clock is 86" in trial.ends["orchestrator"]
    assert f"control/digits/{plan.run}/plan.json" not in trial.disk.objects


class Upgraded(Trial):
    """Whoever attaches has another version of the product, whose machines run other bytes."""

    def provider(self, process: Process) -> Provider:
        agent = Archive(b"another version's", "1" * 64) if process.name == "adopter" else AGENT
        clients: Any = self.amazon.clients(process)
        return Ec2Provider(clients, agent=agent, clock=process.clock)


def test_where_no_machine_was_had_another_version_asks_again_in_the_words_of_the_first() -> None:
    trial = Upgraded(0, Setting(wait_s=400.0, deadline_s=900.0, refusals=[Refusal(0, 120)]))
    plan = trial.plan()
    owner = trial.train(plan)
    trial.world.later(40.0, owner.kill)
    trial.attach(plan, after=45.0, take_over=True)
    assert not trial.finish()
    assert trial.ends["adopter"] == "done" and len(ours(trial)) == 1
    asked = [json.dumps(entry.body["request"]) for entry in entries(trial, plan.run) if entry.kind == "intent"]
    assert len(asked) > len(plan.offers) and len(set(asked)) <= len(plan.offers)


def died_at(name: str, after: str) -> Trial:
    """An orchestrator dies at its first such call after that line of its ledger; the sweep finds what it left."""
    whole = tried(LOSING)
    (run,) = whole.plans
    kinds = [entry.kind for entry in entries(whole, run)]
    assert kinds.count("intent") == 2, "the history is to have two attempts"
    points = [point for point in whole.faults.points if point.process == ORCHESTRATOR]
    lines = [point.number for point in points if point.name == "store create ledger"]
    line = lines[kinds.index(after)]
    at = next(point.number for point in points if point.name == name and point.number > line)
    trial = tried(LOSING, Fault(ORCHESTRATOR, at, "crash", "before"))
    assert not trial.broken
    return trial


@pytest.mark.parametrize(
    "written",
    [
        '{"where":"aws","runs":[{"after":112,"job":{"seconds":0.0},"skew":8,"machine_skew":6,"when":"after","'
        'jump":{"after":88,"seconds":86400}},{"after":42,"job":{"listens":true},"hold_s":120,"crash_at":101,"'
        'adopters":[{"after":143,"off":86400},{"after":340,"off":300}]}],"refusals":[{"after":140,"seconds":1'
        '15}],"mishaps":{"0":{"what":"is taken back","after":40,"seconds":247},"1":{"what":"is taken back","a'
        'fter":88,"seconds":318},"5":{"what":"is taken back","after":247,"seconds":177}},"swept_at":291,"seed'
        '":37255}',
        '{"where":"aws","runs":[{"after":68,"job":{"exit_code":1,"listens":true,"upload_s":2.0},"crash_at":60,'
        '"adopters":[{"after":235}]}],"mishaps":{"0":{"what":"is taken back","after":32,"seconds":394}},"seed":39206}',
    ],
    ids=["before the owner wrote that it had it", "before its order"],
)
def test_a_machine_that_was_taken_back_while_nobody_owned_its_run_is_replaced_by_whoever_attaches(written: str) -> None:
    assert not play(Schedule.parse(written)).broken


@pytest.mark.parametrize("nth", [pytest.param(5, id="some"), pytest.param(1, id="all", marks=pytest.mark.slow)])
def test_a_damaged_ledger_costs_its_own_run_alone_and_its_machine_ends(nth: int) -> None:
    for number in range(0, 40, nth):
        schedule = Schedule("aws", (Run(), Run(after=5)), damages=(Damage(60, number, "is garbage"),), timers=False)
        trial = play(schedule)
        assert not trial.broken, str(schedule)
        assert len(trial.damaged) <= 1
