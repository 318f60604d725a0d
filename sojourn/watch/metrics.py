"""The numbers a script reports of itself, as series of bounded length.

Three sources, each seen and none guessed: its log, by the patterns of `launch.metrics`; the
TensorBoard event files and the metric file it writes, read by the agent on the machine.
Where two sources know one name, the one that the user pointed to counts.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import Literal, NamedTuple

from pydantic import Field

from sojourn.harmless import cut
from sojourn.records import Record

POINTS = 500  # kept of a series
SERIES = 64  # kept of a run
NAME = 200  # characters
RATE_OVER_S = 30.0
STEPS = "steps"  # the name of a pattern that finds how many steps there will be
Source = Literal["log", "tensorboard", "file"]
SOURCES: tuple[Source, ...] = ("log", "tensorboard", "file")


class Point(NamedTuple):
    """One report: at which step, what, and when (seconds since the epoch); None is what was not said.

    A value that is not finite is None too, for JSON knows none.
    """

    step: float | None
    value: float | None
    at: float | None


class Series(Record):
    """What was reported under one name, thinned evenly when it was more than 500 points."""

    source: Source
    count: int = Field(description="How many points were reported")
    points: tuple[Point, ...]

    def values(self) -> list[float]:
        """The finite values in order."""
        return [point.value for point in self.points if point.value is not None]


class _Samples:
    """Every 2^k-th point of a stream, and always the newest."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.count = 0
        self.newest = Point(None, None, None)
        self._stride = 1
        self._kept: list[Point] = []

    def add(self, point: Point) -> None:
        self.newest = point
        if self.count % self._stride == 0:
            self._kept.append(point)
        self.count += 1
        if len(self._kept) == POINTS:
            self._kept = self._kept[::2]
            self._stride *= 2

    def series(self) -> Series:
        whole = self._kept if self._kept[-1:] == [self.newest] else [*self._kept, self.newest]
        return Series(source=self.source, count=self.count, points=tuple(whole))


class Metrics:
    """Everything reported so far."""

    def __init__(self) -> None:
        self.steps: float | None = None  # how many there will be, where the script says so
        self._samples: dict[tuple[str, Source], _Samples] = {}
        self._steps: dict[Source, deque[tuple[float, float]]] = {}

    def add(self, source: Source, name: str, value: float | None, step: float | None, at: float | None) -> None:
        """Take one report; beyond 64 names new ones are left out."""
        if source == "log" and name == STEPS:
            self.steps = value
            return
        key = (cut(name, NAME), source)
        if key not in self._samples:
            if len(self._samples) >= SERIES:
                return
            self._samples[key] = _Samples(source)
        finite = value if value is not None and math.isfinite(value) else None
        self._samples[key].add(Point(step, finite, at))
        if step is not None:
            self._stepped(source, step, at)

    def _stepped(self, source: Source, step: float, at: float | None) -> None:
        seen = self._steps.setdefault(source, deque())
        if seen and step < seen[-1][1]:
            seen.clear()  # a resumed script, or another file's counting
        now = (at if at is not None else seen[-1][0] if seen else 0.0, step)
        if len(seen) > 1 and now[0] - seen[-2][0] < RATE_OVER_S / 60:
            seen[-1] = now
        else:
            seen.append(now)
        while len(seen) > 2 and now[0] - seen[1][0] >= RATE_OVER_S:
            seen.popleft()

    def series(self) -> dict[str, Series]:
        """By name, the leading one first; of two sources the better one."""
        return {name: samples.series() for name, samples in self._best().items()}

    def newest(self) -> dict[str, float | None]:
        """The last value of each name, the leading one first."""
        return {name: samples.newest.value for name, samples in self._best().items()}

    def curve(self, points: int) -> tuple[float, ...]:
        """The leading metric's values so far, evenly thinned."""
        leading = next(iter(self._best().values()), None)
        return thinned(leading.series().values(), points) if leading else ()

    def step(self) -> float | None:
        """The newest step, where steps are reported."""
        seen = self._best_steps()
        return seen[-1][1] if seen else None

    def rate(self) -> float | None:
        """Steps a second over the last half minute, once there are two reports a second apart."""
        seen = self._best_steps()
        if not seen or seen[-1][0] - seen[0][0] < 1.0:
            return None
        return (seen[-1][1] - seen[0][1]) / (seen[-1][0] - seen[0][0])

    def _best_steps(self) -> deque[tuple[float, float]] | None:
        return next((self._steps[source] for source in SOURCES if source in self._steps), None)

    def _best(self) -> dict[str, _Samples]:
        best: dict[str, _Samples] = {}
        for source in reversed(SOURCES):
            best.update({name: samples for (name, of), samples in self._samples.items() if of == source})
        return {name: best[name] for name in sorted(best, key=lambda name: (_place(name), self._order(name)))}

    def _order(self, name: str) -> int:
        names = [one for one, _ in self._samples]
        return names.index(name)


def thinned(values: Sequence[float], points: int) -> tuple[float, ...]:
    """At most so many of the values, evenly spaced, with the first and the last."""
    if len(values) <= points:
        return tuple(values)
    return tuple(values[round(at * (len(values) - 1) / (points - 1))] for at in range(points))


def _place(name: str) -> int:
    """Losses lead, what only tells where the script is comes last."""
    last = name.rsplit("/", 1)[-1].rsplit(".", 1)[-1].lower()
    return 0 if "loss" in last else 2 if last in ("epoch", "epochs", "step", "steps") else 1
