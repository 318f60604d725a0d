"""What machines committed is what the next ones go on from, whenever one of them dies."""

from __future__ import annotations

from simulation.machine import Mishap
from simulation.schedule import Run, Schedule, play
from simulation.script import Job
from simulation.trial import Trial
from simulation.verdict import resumed


def died(node: int, second: int) -> Trial:
    """Two machines train, one of them dies that long after it came up, and others take their place."""
    run = Run(nodes=2, job=Job(80.0), deadline_s=900)
    return play(Schedule("aws", (run,), mishaps={node: Mishap("agent dies", second)}))


def test_whenever_a_machine_dies_the_next_ones_go_on_from_what_all_of_them_had_committed() -> None:
    trials = [died(node, second) for node in (0, 1) for second in range(50, 77, 3)]
    assert [trial.broken for trial in trials if trial.broken] == []
    counts = [len(resumed(trial, run)) for trial in trials for run in trial.plans]
    assert set(counts) == {0, 2}, "some die before the first checkpoint, and others after it"


def test_after_two_losses_every_file_of_a_checkpoint_is_the_newest_one() -> None:
    run = Run(nodes=2, job=Job(300.0), deadline_s=1500)
    losses = {0: Mishap("agent dies", 90), 2: Mishap("agent dies", 110)}
    trial = play(Schedule("aws", (run,), mishaps=losses))
    assert not trial.broken
    (name,) = trial.plans
    assert [source.split("/")[3] for source in resumed(trial, name)] == ["2", "2"]
