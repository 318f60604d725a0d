"""Histories by chance: several runs at once, and everything that may befall them, drawn from one number."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

from simulation.faults import Fault, Faults, Weather
from simulation.machine import Job, Mishap
from simulation.trial import REAP_EVERY_S, Setting, Trial
from simulation.world import START, Process

REFUSALS = ("InsufficientInstanceCapacity", "VcpuLimitExceeded", "RequestLimitExceeded")
SKEW_S = 10.0


@dataclass(frozen=True)
class Run:
    """One run of a schedule, and the people around it."""

    after: float
    nodes: int
    job: Job
    skew: float
    crash_at: int | None = None  # the orchestrator's call that is its last
    suspended: tuple[float, float] | None = None  # its host sleeps: after this long, for this long
    adopters: tuple[tuple[float, bool], ...] = ()  # when somebody attaches, and whether by --take-over
    stopped_after: float | None = None


@dataclass(frozen=True)
class Schedule:
    """Everything that will happen, as far as it is decided beforehand."""

    seed: int
    where: str
    runs: tuple[Run, ...]
    weather: float = 0.0
    weather_s: float = 0.0
    refused_s: float = 0.0  # for so long the cloud has no machines
    refusal: str = REFUSALS[0]
    reclaimed: float = 0.0  # how likely a spot machine is taken back
    timers: bool = True
    mishaps: dict[int, Mishap] = field(default_factory=dict)  # by the order in which machines come up

    def __str__(self) -> str:
        return f"--where {self.where} --seed {self.seed}"


def draw(seed: int, where: str) -> Schedule:
    """The schedule of a seed."""
    chance = random.Random(f"{where} {seed}")
    maybe = lambda likely: chance.random() < likely  # noqa: E731
    runs = tuple(_run(chance) for _ in range(chance.choice((1, 1, 2, 3))))
    return Schedule(
        seed=seed,
        where=where,
        runs=runs,
        weather=chance.choice((0.0, 0.02, 0.1, 0.4)),
        weather_s=chance.uniform(0.0, 400.0),
        refused_s=chance.uniform(0.0, 200.0) if maybe(0.3) else 0.0,
        refusal=chance.choice(REFUSALS),
        reclaimed=chance.choice((0.0, 0.0, 0.5, 1.0)),
        timers=not maybe(0.1),
        mishaps={number: _mishap(chance) for number in range(6) if maybe(0.15)},
    )


def _run(chance: random.Random) -> Run:
    maybe = lambda likely: chance.random() < likely  # noqa: E731
    job = Job(
        chance.choice((0.0, 5.0, 30.0, 90.0, 1000.0)),
        chance.choice((0, 0, 1)),
        maybe(0.5),
        chance.choice((0.0, 2.0, 30.0)),
    )
    return Run(
        after=chance.uniform(0.0, 120.0),
        nodes=chance.choice((1, 1, 2)),
        job=job,
        skew=chance.uniform(-SKEW_S, SKEW_S),
        crash_at=int(chance.triangular(0, 500, 20)) if maybe(0.5) else None,
        suspended=(chance.uniform(0.0, 200.0), chance.uniform(5.0, 400.0)) if maybe(0.2) else None,
        adopters=tuple((chance.uniform(5.0, 400.0), maybe(0.3)) for _ in range(chance.choice((0, 0, 1, 2)))),
        stopped_after=chance.uniform(0.0, 300.0) if maybe(0.15) else None,
    )


def _mishap(chance: random.Random) -> Mishap:
    what = chance.choice(("freezes", "agent dies", "agent hangs", "away"))
    return Mishap(what, chance.uniform(0.0, 300.0), chance.uniform(5.0, 600.0))


def play(schedule: Schedule) -> Trial:
    """Let the schedule happen; the trial's `broken` says which promises were."""
    faults = Faults([_crash(at, run) for at, run in enumerate(schedule.runs) if run.crash_at is not None])
    chance = random.Random(f"{schedule} weather")
    faults.weather = Weather(schedule.weather, START + schedule.weather_s, chance)
    trial = Trial(
        schedule.seed, Setting(where=schedule.where, timers=schedule.timers, mishaps=schedule.mishaps), faults
    )
    trial.refused_s = schedule.refused_s
    trial.amazon.refuse = lambda call, region: _refusal(schedule, trial)
    trial.amazon.reclaim_after = lambda instance: (
        chance.uniform(0.0, 200.0) if instance.is_spot and chance.random() < schedule.reclaimed else None
    )
    for at, run in enumerate(schedule.runs):
        _begin(trial, at, run)
    trial.reaper(phase=chance.uniform(0.0, REAP_EVERY_S))
    trial.broken = trial.finish()
    return trial


def _crash(at: int, run: Run) -> Fault:
    assert run.crash_at is not None
    return Fault(f"orchestrator {at}", run.crash_at, "crash", "before" if run.crash_at % 2 else "after")


def _suspend(trial: Trial, owner: Process, seconds: float) -> None:
    if owner.alive and not owner.done:
        trial.faults.injected.append(f"{owner.name} suspended")
        owner.suspend(seconds)


def _refusal(schedule: Schedule, trial: Trial) -> str | None:
    return schedule.refusal if trial.world.now < START + schedule.refused_s else None


def _begin(trial: Trial, at: int, run: Run) -> None:
    plan = trial.plan(f"run {at}", replace(trial.setting, nodes=run.nodes, job=run.job))
    owner = trial.train(plan, f"orchestrator {at}", run.after, run.skew)
    if run.suspended is not None:
        after, seconds = run.suspended
        trial.world.later(run.after + after, lambda: _suspend(trial, owner, seconds))
    for number, (after, take_over) in enumerate(run.adopters):
        trial.attach(plan, f"adopter {at}.{number}", run.after + after, -run.skew, take_over)
    if run.stopped_after is not None:
        trial.stop(plan, run.after + run.stopped_after, f"user {at}")
