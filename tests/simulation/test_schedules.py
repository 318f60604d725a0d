"""Schedules of faults by chance; what fails names the command that plays it again."""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from simulation.schedule import draw, play
from simulation.trial import Setting, Trial

pytestmark = pytest.mark.timeout(900)  # nothing in here waits; a host that is busy with other tests is slow
WHERE = ["local", "aws"]


@pytest.mark.parametrize("where", WHERE)
@settings(max_examples=100, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**32))
def test_whatever_goes_wrong_the_promises_are_kept(where: str, seed: int) -> None:
    trial = play(draw(seed, where))
    assert not trial.broken, f"python benchmarks/faults.py --where {where} --seed {seed} --schedules 1 --show"


def test_the_same_seed_is_the_same_history() -> None:
    histories = [play(draw(random.Random(1).randrange(1000), "aws")).world.history for _ in range(2)]
    assert histories[0] == histories[1] != []


@pytest.mark.parametrize("where", WHERE)
def test_a_history_without_faults_ends_well_and_soon(where: str) -> None:
    trial = Trial(0, Setting(where=where))
    assert not trial.run()
    assert trial.ends == {"orchestrator": "done"}
