"""Machines are given back, and called gone, by nobody but whoever sees them."""

from __future__ import annotations

import pytest

from simulation.exhaustive import ORCHESTRATOR, recorded
from simulation.faults import Fault, Faults, Outage
from simulation.machine import Mishap
from simulation.script import Job
from simulation.trial import Setting, Trial
from simulation.verdict import NORMAL_S, ours
from simulation.world import START
from sojourn.lease.state import MARGIN_S


@pytest.mark.parametrize("where", ["local", "aws"])
def test_a_machine_whose_agent_hangs_is_given_back_by_its_orchestrator(where: str) -> None:
    trial = Trial(0, Setting(where=where, job=Job(1000.0), mishaps={0: Mishap("agent hangs", 60.0)}, reaper=False))
    plan = trial.plan()
    trial.train(plan)
    trial.stop(plan, after=120.0)
    assert not trial.finish()
    (machine,) = ours(trial)
    assert machine.ended_at is not None and machine.ended_at < plan.deadline_at - NORMAL_S


@pytest.mark.parametrize("call", ["ec2.run_instances", "scheduler.create_schedule"])
def test_machines_that_are_not_shown_yet_are_not_called_gone_and_keep_their_timer(call: str) -> None:
    create = next(point for point in recorded(Setting()) if point.name == call)
    trial = Trial(0, Setting(), Faults([Fault(ORCHESTRATOR, create.number, "crash", "after")]))
    trial.amazon.slow_to_show = True
    plan = trial.plan()
    trial.train(plan)
    trial.stop(plan, after=4.0)
    trial.attach(plan, after=5.0, take_over=True)
    assert not trial.finish()
    assert len(ours(trial)) == 1


@pytest.mark.parametrize("nodes", [1, 3])
def test_a_request_of_which_a_machine_has_ended_is_sent_again_and_rents_nothing(nodes: int) -> None:
    create = next(point for point in recorded(Setting(nodes=nodes)) if point.name == "ec2.run_instances")
    setting = Setting(nodes=nodes, job=Job(1000.0), deadline_s=900.0, mishaps={0: Mishap("agent dies", 10)})
    trial = Trial(0, setting, Faults([Fault(ORCHESTRATOR, create.number, "crash", "after")]))
    plan = trial.plan()
    trial.train(plan)
    trial.attach(plan, after=150.0, take_over=True)
    assert not trial.finish()
    made = {one.identity for one in ours(trial)}
    assert len(made) == nodes and len(trial.amazon.armed & made) == nodes - 1


def test_what_a_run_gave_back_is_ended_by_the_sweep_though_its_owner_cannot_end_it() -> None:
    closed = Outage(0, 1000, of=f"{ORCHESTRATOR}: ec2.terminate_instances")
    setting = Setting(job=Job(1000.0), deadline_s=900.0, mishaps={0: Mishap("agent hangs", 60)})
    trial = Trial(0, setting, Faults(outages=[closed]))
    plan = trial.plan()
    trial.train(plan)
    trial.stop(plan, after=120.0)  # and since the agent does not answer, the machine is given back after grace
    asked_at = START + 120.0 + plan.launch.grace + MARGIN_S
    trial.reaper(phase=asked_at + 20.0 - START)
    assert not trial.finish()
    (machine,) = ours(trial)
    assert machine.ended_at is not None and asked_at < machine.ended_at < asked_at + NORMAL_S
