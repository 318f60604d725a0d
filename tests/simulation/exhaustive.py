"""Every place where an orchestrator can die or a call can fail, one history for each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from simulation.faults import Fault, Faults, Point
from simulation.trial import Setting, Trial

ORCHESTRATOR = "orchestrator"


def recorded(setting: Setting, seed: int = 0) -> list[Point]:
    """The orchestrator's calls in a history without faults."""
    trial = Trial(seed, setting)
    broken = trial.run()
    assert not broken, broken
    return [point for point in trial.faults.points if point.process == ORCHESTRATOR]


def counts(point: Point) -> bool:
    """Whether dying here differs from dying at the point before: it writes, or it asks the cloud."""
    return not point.name.startswith(("store get", "store head", "store list"))


def crashes(points: list[Point]) -> Iterator[Fault]:
    """The orchestrator dies at each ledger write and each cloud call, before and after its effect."""
    for point in filter(counts, points):
        for when in ("before", "after"):
            yield Fault(point.process, point.number, "crash", when)


def failures(points: list[Point]) -> Iterator[Fault]:
    """Each call fails, before and after its effect, once and for ever."""
    seen: set[str] = set()
    for point in points:
        # A look that fails once is like the next one of its kind; what fails for ever is so from the first on.
        for when in ("before", "after"):
            if counts(point) or point.name not in seen:
                yield Fault(point.process, point.number, "fail", when)
                yield Fault(point.process, point.number, "fail", when, lasting=True)
        seen.add(point.name)


def tried(setting: Setting, fault: Fault, seed: int = 0) -> Trial:
    """The history with this fault; `broken` says what it broke."""
    trial = Trial(seed, setting, Faults([fault]))
    trial.broken = trial.run()
    return trial


def adopted(setting: Setting) -> Setting:
    """The same, with somebody who attaches to the run after three minutes."""
    return replace(setting, adopts_after=180.0)
