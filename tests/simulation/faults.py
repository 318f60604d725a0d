"""What goes wrong, and where: every call that leaves a process is a point that can fail or be the last.

A call fails before its effect (it was refused, or never arrived) or after it (the answer was
lost). Points are numbered by process, so a first history without faults enumerates them all.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from simulation.world import START, Killed, Process

T = TypeVar("T")
When = Literal["before", "after"]
CONNECTION_S = 60.0  # a request that is held up for longer finds nobody who listens
_LOOKS = ("store get", "store head", "store list", "ec2.describe", "scheduler.get", "scheduler.list")
_LOOKS += ("local.observe", "local.leases")


@dataclass(frozen=True)
class Point:
    """Call number `number` of a process, and what it was."""

    process: str
    number: int
    name: str

    @property
    def reads(self) -> bool:
        """Whether the call only looks."""
        return reads(self.name)


@dataclass(frozen=True)
class Fault:
    """What befalls a call."""

    process: str
    number: int
    what: Literal["crash", "fail"]
    when: When
    lasting: bool = False  # whoever makes the same call from then on, on the control side, fares the same

    def __str__(self) -> str:
        return f"{self.process}:{self.number}:{self.what}:{self.when}{':lasting' if self.lasting else ''}"


def reads(name: str) -> bool:
    """Whether a call of this name only looks."""
    return name.startswith(_LOOKS)


@dataclass(frozen=True)
class Outage:
    """For some time, in seconds of the history, calls fail."""

    after: int
    seconds: int
    percent: int = 100  # of the calls
    of: str = ""  # a part of who calls and what, such as `ec2` or `reaper 0: store create`; all calls without one
    when: Literal["before", "after", "either"] = "before"  # their effect

    @property
    def until(self) -> float:
        return START + self.after + self.seconds

    def strikes(self, process: str, number: int, name: str, now: float) -> When | None:
        """Whether this call fails, and when; the same call always fares the same."""
        if not START + self.after <= now < self.until or self.of not in f"{process}: {name}":
            return None
        dice = zlib.crc32(f"{process} {number} {self.after}".encode())
        if dice % 100 >= self.percent:
            return None
        return self.when if self.when != "either" else ("before", "after")[dice // 100 % 2]


@dataclass
class Faults:
    """The faults of one history, and the record of all calls."""

    planned: Sequence[Fault] = ()
    outages: Sequence[Outage] = ()
    points: list[Point] = field(default_factory=list)
    injected: list[str] = field(default_factory=list)
    _numbers: Counter[str] = field(default_factory=Counter)
    _lasting: dict[str, When] = field(default_factory=dict)

    @property
    def lasting(self) -> bool:
        """Whether something fails for ever."""
        return bool(self._lasting)

    def call(
        self,
        process: Process,
        name: str,
        effect: Callable[[], T],
        latency: float,
        refusal: Callable[[When], Exception],
    ) -> T:
        """Make a call of a process to the outside; `refusal` is the error that its caller meets when it fails."""
        process.check()
        fault, sent = self._fault(process, name), process.world.now
        process.sleep(latency * process.world.chance.uniform(0.2, 0.8))
        if process.world.now > sent + CONNECTION_S:
            process.world.note(f"{process.name}: {name}: its connection did not outlive its host's sleep")
            raise refusal("before")
        if fault and fault.when == "before":
            raise self._struck(process, name, fault, refusal)
        try:
            answer = effect()
        except Exception as error:
            raise (self._struck(process, name, fault, refusal) if fault else error) from None
        if not reads(name):  # who only looks changes nothing while the answer is on its way
            process.sleep(latency * process.world.chance.uniform(0.2, 0.8))
        if fault:
            raise self._struck(process, name, fault, refusal)
        return answer

    def _fault(self, process: Process, name: str) -> Fault | None:
        number = self._numbers[process.name]
        self._numbers[process.name] += 1
        self.points.append(Point(process.name, number, name))
        for fault in self.planned:
            if (fault.process, fault.number) == (process.name, number):
                if fault.lasting:
                    self._lasting[name] = fault.when
                return fault
        if name in self._lasting and not process.on_machine:
            return Fault(process.name, number, "fail", self._lasting[name])
        struck = (outage.strikes(process.name, number, name, process.world.now) for outage in self.outages)
        when = next(filter(None, struck), None)
        return Fault(process.name, number, "fail", when) if when else None

    def _struck(self, process: Process, name: str, fault: Fault, refusal: Callable[[When], Exception]) -> BaseException:
        self.injected.append(f"{fault} at {name}")
        process.world.note(f"{process.name}: {name}: {fault.what} {fault.when} its effect")
        if fault.what == "crash":
            process.kill()
            return Killed(process.name)
        return refusal(fault.when)
