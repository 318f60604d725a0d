"""Each layer that a provider claims to have ends a machine alone, with the orchestrator and all other layers dead."""

from __future__ import annotations

from dataclasses import replace

import pytest

from simulation.exhaustive import ORCHESTRATOR, recorded
from simulation.faults import Fault, Faults
from simulation.machine import Mishap
from simulation.script import Job
from simulation.trial import REAP_EVERY_S, Setting, Trial
from simulation.verdict import CLOUD_S, TIMER_S, ours, overshoot
from simulation.world import START
from sojourn.lease.state import MARGIN_S

ALONE = Setting(job=Job(10_000.0), reaper=False, timers=False, machine_timers=False)
FROZEN = {number: Mishap("freezes", 60.0) for number in range(3)}
HANGING = {number: Mishap("agent hangs", 60.0) for number in range(3)}
# What is left alive, by the name that the capability record gives it.
LEFT = {
    "agent timer": ALONE,
    "supervisor timer": replace(ALONE, machine_timers=True, mishaps=HANGING),
    "machine timer": replace(ALONE, machine_timers=True, mishaps=HANGING),
    "cloud timer": replace(ALONE, timers=True, mishaps=FROZEN),
    "reaper": replace(ALONE, reaper=True, mishaps=FROZEN),
}
LAYERS = {"local": ["agent timer", "supervisor timer", "reaper"]}
LAYERS["aws"] = ["agent timer", "machine timer", "cloud timer", "reaper"]


def ended_by(setting: Setting) -> Trial:
    """The history in which the orchestrator dies as soon as the machines have their order."""
    points = recorded(Setting(where=setting.where))
    order = next(point for point in points if point.name == "store create order")
    trial = Trial(0, setting, Faults([Fault(ORCHESTRATOR, order.number, "crash", "after")]))
    trial.broken = trial.run()
    return trial


@pytest.mark.parametrize("where", LAYERS)
def test_every_layer_of_the_capability_record_is_tried(where: str) -> None:
    trial = Trial(0, Setting(where=where))
    assert list(trial.provider(trial.world.process("anybody")).capability().layers) == LAYERS[where]


@pytest.mark.parametrize(("where", "layer"), [(where, layer) for where in LAYERS for layer in LAYERS[where]])
def test_one_layer_alone_keeps_the_worst_bound(where: str, layer: str) -> None:
    trial = ended_by(replace(LEFT[layer], where=where))
    (machine,) = ours(trial)
    assert machine.ended_at is not None
    bounds = {"reaper": MARGIN_S + REAP_EVERY_S + TIMER_S, "cloud timer": CLOUD_S}
    assert overshoot(trial) <= bounds.get(layer, TIMER_S)


def test_one_machine_that_died_hours_before_the_deadline_keeps_no_other_from_its_end() -> None:
    dying = {0: Mishap("agent dies", 60), 1: Mishap("freezes", 50), 2: Mishap("freezes", 50)}
    trial = ended_by(replace(LEFT["cloud timer"], nodes=3, deadline_s=3 * 3600.0, mishaps=dying))
    first, *others = sorted(ours(trial), key=lambda one: one.ended_at or float("inf"))
    assert first.ended_at is not None and first.ended_at < START + 600.0
    assert not trial.broken and len(others) == 2 and overshoot(trial) <= CLOUD_S


def test_the_cloud_s_timer_never_comes_before_deadline_and_grace() -> None:
    for deadline_s in range(420, 480, 5):
        trial = ended_by(replace(LEFT["cloud timer"], deadline_s=float(deadline_s)))
        assert not trial.broken and 0 <= overshoot(trial) <= CLOUD_S, deadline_s


@pytest.mark.parametrize("where", LAYERS)
def test_with_no_layer_at_all_a_machine_is_left_and_the_verdict_says_so(where: str) -> None:
    trial = ended_by(replace(ALONE, where=where, mishaps=FROZEN))
    assert any("left behind" in text for text in trial.broken)
