"""Histories by chance: several runs at once, and everything that may befall them, written down beforehand.

A schedule holds whole numbers and names only, so it can be read, kept as JSON and played
again. It is drawn by a few questions to a `random.Random`: a seeded one for the benchmark,
or Hypothesis, which then shrinks what failed to the faults that matter. For its sake the
answer that is asked for last and least is always the one that changes nothing.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal, TypeVar

from pydantic import TypeAdapter

from simulation.faults import Fault, Faults, Outage
from simulation.machine import Mishap
from simulation.screen import Screen
from simulation.script import Job
from simulation.trial import REAP_EVERY_S, Refusal, Setting, Trial
from simulation.versions import VERSIONS
from simulation.world import Process

T = TypeVar("T")
SKEW_S = 10
WRONG = (0, 0, 300, -300, 86_400, -86_400)  # clocks that nobody compared with another
MACHINES = 6  # that may have a mishap, in the order in which they come up
SCREENS: tuple[Literal["stops", "is slow", "is full"], ...] = ("stops", "is slow", "is full")
REFUSALS = ("InsufficientInstanceCapacity", "VcpuLimitExceeded", "RequestLimitExceeded")
MISHAPS = ("is taken back", "agent dies", "agent hangs", "freezes", "away", "clock set")
WAYS: dict[str, Callable[[bytes], bytes]] = {
    "is empty": lambda _: b"",
    "is zeros": lambda body: bytes(len(body)),
    "is half": lambda body: body[: len(body) // 2],
    "is garbage": lambda _: b"\xff\xfe garbage",
    "is a list": lambda _: b"[1]",
    "is an empty object": lambda _: b"{}",
    "is of a later version": lambda body: body.replace(b"{", b'{"of_later": {"a": [1]}, ', 1),
}
OUT_OF_REACH = {
    "local": ("", "store", "local", "orchestrator"),
    "aws": ("", "store", "ec2", "scheduler", "orchestrator"),
}


@dataclass(frozen=True)
class Jump:
    """Somebody sets the clock of a host."""

    after: int
    seconds: int


@dataclass(frozen=True)
class Adopter:
    """Somebody who attaches to a run."""

    after: int
    take_over: bool = False
    off: int = 0  # by which the clock there is
    jump: Jump | None = None
    version: str = ""
    screen: Screen | None = None


@dataclass(frozen=True)
class Sleep:
    """The host of an orchestrator is suspended."""

    after: int
    seconds: int


@dataclass(frozen=True)
class Damage:
    """An object of the store loses what it held: a power cut, a disk, a later version, somebody's hand."""

    after: int
    which: int  # of all that lie there then, in the order of their names, and around again
    way: str = "is empty"


@dataclass(frozen=True)
class Run:
    """One run of a schedule, and the people around it; times are seconds after it began."""

    after: int = 0
    nodes: int = 1
    job: Job = Job()
    deadline_s: int = 420
    hold_s: int = 0  # for which the machines of a script that failed are held
    skew: int = 0  # by which its orchestrator's clock is off; whoever attaches is off the other way
    machine_skew: int = 0
    crash_at: int | None = None  # the orchestrator's call that is its last
    when: Literal["before", "after"] = "before"  # its effect
    sleep: Sleep | None = None
    jump: Jump | None = None
    version: str = ""  # of the product that plans it and rents its machines
    screen: Screen | None = None  # of its orchestrator
    adopters: tuple[Adopter, ...] = ()
    stopped_after: int | None = None


@dataclass(frozen=True)
class Schedule:
    """Everything that will happen, as far as it is decided beforehand."""

    where: str
    runs: tuple[Run, ...]
    outages: tuple[Outage, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    mishaps: dict[int, Mishap] = field(default_factory=dict)  # by the order in which machines come up
    damages: tuple[Damage, ...] = ()
    timers: bool = True  # the cloud's own
    swept_at: int = 0
    sweeps_off: int = 0  # by which the clock is of the host that sweeps
    sweeps_jump: Jump | None = None
    seed: int = 0  # of how long things take

    def __str__(self) -> str:
        return _JSON.dump_json(self, exclude_defaults=True).decode()

    @classmethod
    def parse(cls, text: str) -> Schedule:
        """The schedule that was written so."""
        return _JSON.validate_json(text)


_JSON = TypeAdapter(Schedule)


def seeded(seed: int, where: str) -> Schedule:
    """The schedule of a seed."""
    return draw(random.Random(f"{where} {seed}"), where)


def draw(chance: random.Random, where: str) -> Schedule:
    """A schedule by chance, which is only ever asked for a whole number or a choice."""
    return Schedule(
        where=where,
        runs=(_run(chance), *_several(chance, 60, 2, _run)),
        outages=_several(chance, 60, 3, lambda chance: _outage(chance, where)),
        refusals=_several(chance, 30, 2, _refusal),
        mishaps={number: _mishap(chance) for number in range(MACHINES) if _maybe(chance, 25)},
        damages=_several(chance, 20, 2, _damage),
        timers=not _maybe(chance, 10),
        swept_at=chance.randint(0, int(REAP_EVERY_S)),
        sweeps_off=chance.choice(WRONG),
        sweeps_jump=Jump(chance.randint(0, 2000), chance.choice(WRONG[2:])) if _maybe(chance, 15) else None,
        seed=chance.randint(0, 2**16),
    )


def _maybe(chance: random.Random, percent: int) -> bool:
    return chance.randint(1, 100) > 100 - percent


def _several(chance: random.Random, percent: int, most: int, one: Callable[[random.Random], T]) -> tuple[T, ...]:
    found: list[T] = []
    while len(found) < most and _maybe(chance, percent):
        found.append(one(chance))
    return tuple(found)


def _run(chance: random.Random) -> Run:
    job = Job(
        chance.choice((40.0, 0.0, 5.0, 90.0, 1000.0)),
        chance.choice((0, 0, 1)),
        _maybe(chance, 50),
        chance.choice((0.0, 2.0, 30.0)),
        _maybe(chance, 30),
    )
    return Run(
        after=chance.randint(0, 120),
        nodes=chance.choice((1, 1, 2)),
        job=job,
        deadline_s=chance.choice((420, 420, 200, 900)),
        hold_s=chance.choice((0, 0, 120)),
        skew=chance.randint(-SKEW_S, SKEW_S),
        machine_skew=chance.randint(-SKEW_S, SKEW_S),
        crash_at=chance.choice((chance.randint(0, 60), chance.randint(0, 500))) if _maybe(chance, 50) else None,
        when=chance.choice(("before", "after")),
        sleep=Sleep(chance.randint(0, 200), chance.randint(5, 400)) if _maybe(chance, 20) else None,
        jump=Jump(chance.randint(0, 300), chance.choice(WRONG[2:])) if _maybe(chance, 15) else None,
        version=_version(chance),
        screen=_screen(chance),
        adopters=_several(chance, 40, 2, _adopter),
        stopped_after=chance.randint(0, 300) if _maybe(chance, 15) else None,
    )


def _adopter(chance: random.Random) -> Adopter:
    return Adopter(
        after=chance.randint(5, 400),
        take_over=_maybe(chance, 30),
        off=chance.choice(WRONG),
        jump=Jump(chance.randint(0, 300), chance.choice(WRONG[2:])) if _maybe(chance, 15) else None,
        version=_version(chance),
        screen=_screen(chance),
    )


def _version(chance: random.Random) -> str:
    return chance.choice(VERSIONS) if _maybe(chance, 25) else ""


def _screen(chance: random.Random) -> Screen | None:
    what = chance.choice(SCREENS)
    return Screen(what, chance.randint(0, 300), chance.choice((100_000, 30, 300))) if _maybe(chance, 25) else None


def _outage(chance: random.Random, where: str) -> Outage:
    return Outage(
        after=chance.randint(0, 400),
        seconds=chance.randint(1, 400),
        percent=chance.choice((100, 2, 10, 40)),
        of=chance.choice(OUT_OF_REACH[where]),
        when=chance.choice(("before", "after", "either")),
    )


def _refusal(chance: random.Random) -> Refusal:
    return Refusal(chance.randint(0, 300), chance.randint(1, 200), chance.choice(REFUSALS))


def _damage(chance: random.Random) -> Damage:
    return Damage(chance.randint(1, 500), chance.randint(0, 500), chance.choice(tuple(WAYS)))


def _mishap(chance: random.Random) -> Mishap:
    what, after, seconds = chance.choice(MISHAPS), chance.randint(0, 300), chance.randint(5, 600)
    return Mishap(what, after, chance.choice(WRONG[2:]) if what == "clock set" else seconds)


def play(schedule: Schedule) -> Trial:
    """Let the schedule happen; the trial's `broken` says which promises were."""
    crashes = [
        Fault(f"orchestrator {at}", run.crash_at, "crash", run.when)
        for at, run in enumerate(schedule.runs)
        if run.crash_at is not None
    ]
    setting = Setting(
        where=schedule.where, timers=schedule.timers, mishaps=schedule.mishaps, refusals=schedule.refusals
    )
    trial = Trial(schedule.seed, setting, Faults(crashes, schedule.outages))
    for at, run in enumerate(schedule.runs):
        _begin(trial, at, run)
    for damage in schedule.damages:
        trial.world.later(damage.after, lambda damage=damage: _damaged(trial, damage))
    trial.reaper(phase=schedule.swept_at, skew=schedule.sweeps_off)
    if schedule.sweeps_jump is not None:
        seconds = schedule.sweeps_jump.seconds
        trial.world.later(schedule.sweeps_jump.after, lambda: trial.set_sweeps_clock(seconds))
    trial.broken = trial.finish()
    return trial


def _begin(trial: Trial, at: int, run: Run) -> None:
    setting = replace(
        trial.setting,
        nodes=run.nodes,
        job=run.job,
        deadline_s=float(run.deadline_s),
        hold_s=float(run.hold_s),
        machine_skew=run.machine_skew,
        version=run.version,
    )
    plan = trial.plan(f"run {at}", setting)
    owner = trial.train(plan, f"orchestrator {at}", run.after, run.skew, run.screen)
    if run.sleep is not None:
        seconds = run.sleep.seconds
        trial.world.later(run.after + run.sleep.after, lambda: _suspend(trial, owner, seconds))
    if run.jump is not None:
        jump = run.jump
        trial.world.later(run.after + jump.after, lambda: _jump(trial, owner, jump.seconds))
    for number, adopter in enumerate(run.adopters):
        name, after, off = f"adopter {at}.{number}", run.after + adopter.after, adopter.off - run.skew
        other = trial.attach(plan, name, after, off, adopter.take_over, adopter.version, adopter.screen)
        if adopter.jump is not None:
            jumps = adopter.jump
            trial.world.later(after + jumps.after, lambda other=other, jumps=jumps: _jump(trial, other, jumps.seconds))
    if run.stopped_after is not None:
        trial.stop(plan, run.after + run.stopped_after, f"user {at}")


def _damaged(trial: Trial, damage: Damage) -> None:
    keys = trial.disk.below("")
    if keys:
        key = keys[damage.which % len(keys)]
        body, at = trial.disk.objects[key]
        trial.disk.objects[key] = WAYS[damage.way](body), at
        trial.damaged |= {run for run in trial.plans if run in key}
        trial.faults.injected.append(f"{key} {damage.way}")
        trial.world.note(f"{key} {damage.way}")


def _jump(trial: Trial, owner: Process, seconds: int) -> None:
    if owner.alive and not owner.done:
        trial.faults.injected.append(f"{owner.name}'s clock set by {seconds} s")
        owner.clock.jump(seconds)


def _suspend(trial: Trial, owner: Process, seconds: int) -> None:
    if owner.alive and not owner.done:
        trial.faults.injected.append(f"{owner.name} suspended")
        owner.suspend(seconds)
