"""Every place where an orchestrator can die or a call can fail, one history for each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from simulation.faults import Fault, Faults, Point
from simulation.trial import Setting, Trial

ORCHESTRATOR = "orchestrator"


def recorded(setting: Setting, seed: int = 0) -> list[Point]:
    """The orchestrator's calls in a history without faults."""
    trial = tried(setting, seed=seed)
    assert not trial.broken, trial.broken
    return [point for point in trial.faults.points if point.process == ORCHESTRATOR]


def distinct(points: Iterable[Point]) -> list[Point]:
    """Without those that are like one before: looks and beats of one kind between two lines of the ledger."""
    seen: set[tuple[str, int]] = set()
    found, lines = [], 0
    for point in points:
        lines += point.name == "store create ledger"
        if (point.name, lines) not in seen or not (point.reads or point.name == "store put owner.json"):
            found.append(point)
        seen.add((point.name, lines))
    return found


def crashes(points: list[Point]) -> Iterator[Fault]:
    """The orchestrator dies at each of its writes and each cloud call, before and after its effect.

    To die at a look into the store is to die after the call before it.
    """
    for point in points:
        if not point.reads:
            yield Fault(point.process, point.number, "crash", "before")
        if not point.name.startswith("store ") or not point.reads:
            yield Fault(point.process, point.number, "crash", "after")


def failures(points: list[Point]) -> Iterator[Fault]:
    """Each call fails, before and after its effect, once and for ever; looks have no effect."""
    for point in distinct(points):
        yield Fault(point.process, point.number, "fail", "before")
        yield Fault(point.process, point.number, "fail", "before", lasting=True)
        if not point.reads:
            yield Fault(point.process, point.number, "fail", "after")
            yield Fault(point.process, point.number, "fail", "after", lasting=True)


def tried(setting: Setting, *faults: Fault, seed: int = 0) -> Trial:
    """The history with these faults; `broken` says what they broke."""
    trial = Trial(seed, setting, Faults(faults))
    trial.broken = trial.run()
    return trial


def adopted(setting: Setting) -> Setting:
    """The same, with somebody who attaches to the run after three minutes."""
    return replace(setting, adopts_after=180.0)
