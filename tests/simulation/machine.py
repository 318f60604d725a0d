"""A machine: its own timer, which comes first, and the real agent over a script that only takes time.

The agent's phases, interrupts, deadline, grace, its commits, checkpoints over all nodes and
last words are those of `sojourn.agent`, over a folder of real files. Simulated are its
processes (`script`), what it fetches, and what can befall a machine.
"""

from __future__ import annotations

import json
import re
import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from simulation.faults import Faults
from simulation.script import Job, Script
from simulation.store import Disk, MachineStore
from simulation.world import World
from sojourn.agent.agent import Agent
from sojourn.agent.claim import claim
from sojourn.agent.clouds import machine as kinds
from sojourn.agent.errors import Exists, Refused
from sojourn.agent.files import Json
from sojourn.agent.results.commit import Committer
from sojourn.agent.script.mask import Mask
from sojourn.agent.work import Work

STARTING_S = (3.0, 30.0)  # from power to the agent's first word
FETCHING_S = (1.0, 10.0)
PRINTS_EVERY_S, LINE = 5.0, b"step 1: loss 0.5\n" * 100


@dataclass(frozen=True)
class Mishap:
    """What befalls a machine, in seconds after it came up."""

    # `freezes`: nothing of it works any more; `away`: there is no way to the store, for so many seconds;
    # `clock set`: by so many seconds
    what: Literal["freezes", "agent dies", "agent hangs", "away", "is taken back", "clock set"]
    after: int
    seconds: int = 0


@dataclass
class Machine:
    """One machine from power to power-off; `off` ends it, and says by which layer."""

    world: World
    disk: Disk
    faults: Faults
    name: str
    boot: Json
    node: int
    timer: tuple[float, float] | None  # deadline + grace by its clock, and the longest life; None without a timer
    job: Job
    tree: Path  # what its disk holds of the run
    off: Callable[[str], None]
    skew: float = 0.0
    mishaps: tuple[Mishap, ...] = ()
    notice: Callable[[], float | None] = lambda: None
    taken: Callable[[], bool] = lambda: False  # back by its cloud, where that does so
    version: str = ""  # of the product that rented it
    frozen: bool = False

    def start(self) -> None:
        """Power: the timer is armed before all else."""
        self.process = self.world.process(self.name, self.skew, on_machine=True)
        self.store = MachineStore(self.disk, self.process, self.faults, self.job.upload_s)
        self.process.version = self.version
        if self.timer is not None and self.timer[1] == float("inf"):  # as a supervisor's, which no set clock moves out
            end, clock = self.timer[0], self.process.clock
            self.timer = end, clock.since_boot() + end - clock.now()
        self._arm()
        for mishap in self.mishaps:
            self.world.later(mishap.after, lambda mishap=mishap: self._befall(mishap))
        self.process.start(self._run)

    def _arm(self) -> None:
        """Its timer goes by the clock and by the time since it came up, whichever says first that it is over."""
        if self.timer is None:
            return
        end, life = self.timer
        clock = self.process.clock
        left = min(end - clock.now(), life - clock.since_boot())
        if left <= 0:
            self._end("timer")
        else:
            self.world.later(left, self._arm)

    def stop(self) -> None:
        """Its power is cut."""
        self.process.kill()

    def _run(self) -> None:
        self.process.sleep(self.world.chance.uniform(*STARTING_S))
        try:
            agent = SimulatedAgent(self)
        except Refused as refusal:
            self.world.note(f"{self.name}: {refusal}")
        else:
            code = agent.live()
            self.world.note(f"{self.name}: {agent.last_words()} ({code})")
        self._end("agent")

    def _end(self, by: str) -> None:
        if not self.frozen and self.process.alive:
            self.off(by)

    def _befall(self, mishap: Mishap) -> None:
        if not self.process.alive or (mishap.what == "is taken back" and not self.taken()):
            return
        self.world.note(f"{self.name}: {mishap.what}")
        self.faults.injected.append(f"{self.name} {mishap.what}")
        if mishap.what == "freezes":
            self.frozen = True
            self.process.kill()
        elif mishap.what == "agent hangs":
            self.process.suspend(float("inf"))
        elif mishap.what == "clock set":
            self.process.clock.jump(mishap.seconds)
            self._arm()
        elif mishap.what == "away":
            self.store.away_until = self.world.now + mishap.seconds
        elif mishap.what == "agent dies":  # whoever started the agent switches the machine off behind it
            self.off("agent")


def read_user_data(script: str) -> tuple[Json, tuple[float, float] | None]:
    """What a boot script tells its machine, and the timer that it arms."""
    told = json.loads(shlex.split(script.splitlines()[-1])[-1])
    end = re.search(r'while \[ "\$\(date \+%s\)" -lt (\d+) \]', script)
    life = re.search(r'\[ "\$left" -lt (\d+) \] \|\| left=', script)
    return told["boot"], (float(end[1]), float(life[1])) if end and life else None


class SimulatedAgent(Agent):
    """The agent over a machine that is simulated: its facts, its script. Its files are real, and so are its commits."""

    def __init__(self, machine: Machine) -> None:
        clock, boot, node = machine.process.clock, machine.boot, machine.node
        kind = kinds.Machine()
        if boot.get("metadata"):
            kind, boot = Rented(machine), {**boot, "identity": machine.name}
            node = claim(machine.store, boot, node, machine.name, clock)  # type: ignore[arg-type]
        super().__init__("agent", boot, node, "/", "10.0.0.1", machine.store, kind, clock)
        self._machine = machine

    def last_words(self) -> str:
        return f"{self._exit['reason']}: {self._exit['message']}"

    def _facts(self) -> Json:
        return {"port": 29500, "cpus": 8, "memory": 2**34, "gpus": [], "python": "3.12.0"}

    def _start(self, order: Json) -> Work:
        machine, clock = self._machine, self._machine.process.clock
        self._heart.phase = "fetching"
        clock.sleep(machine.world.chance.uniform(*FETCHING_S))
        self._fetch(order)
        file = machine.tree / "outputs" / f"shard-{self._place.rank}.pt"
        script = Script(machine.process, machine.job, file)
        root, until = str(machine.tree), self._grace.latest()
        committer = Committer(
            self._store, self._place, order, root, ["outputs"], until, clock, script.being_written, dated=False
        )
        self._interrupts.check()
        log = Log(machine, self._place.key("log")) if machine.job.prints else Silence()
        parts: Any = (script, log, committer, Scalars(), Execs(), Mask([]))
        work = Work(*parts, self._grace, self._store.patience_s, cast(Any, Outside()))
        work.start()
        script.start()
        self._heart.phase = "running"
        return work

    def _fetch(self, order: Json) -> None:
        """What a resumed attempt finds in its tree before the start."""
        for entry in order["inputs"]:
            path = self._machine.tree / entry["path"]
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                path.write_bytes(self._store.open(entry["source"]).read())
            except OSError as error:
                raise Refused(f"{entry['path']}: {entry['source']} cannot be read: {error}") from error

    def _diagnose(self, work: Work) -> None:
        pass


class Rented(kinds.Machine):
    """A machine that its cloud may take back, and says so before."""

    whole = True
    asked_to_end = "preempted"

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def notice(self) -> kinds.Notice | None:
        at = self._machine.notice()
        return kinds.Notice(time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at)), at) if at else None


class Log:
    """A script that prints a line every few seconds."""

    def __init__(self, machine: Machine, prefix: str) -> None:
        self._machine = machine
        self._prefix = prefix
        self._halt: Callable[[float], None] = lambda _: None
        self.segments = self.bytes = 0

    def start(self) -> None:
        self._halt = self._machine.process.clock.every(PRINTS_EVERY_S, self._print)

    def finish(self, seconds: float) -> bool:
        self._halt(seconds)
        return True

    def tail(self) -> bytes:
        return LINE

    def _print(self) -> None:
        try:
            self._machine.store.create(f"{self._prefix}/{self.segments:08d}", LINE)
        except Exists:
            pass
        except OSError:
            return
        self.segments, self.bytes = self.segments + 1, self.bytes + len(LINE)


class Silence:
    """A script that prints nothing."""

    segments = bytes = 0

    def start(self) -> None:
        pass

    def finish(self, seconds: float) -> bool:
        return True

    def tail(self) -> bytes:
        return b""


class Scalars:
    """A script that tells no numbers."""

    def start(self) -> None:
        pass

    def finish(self, seconds: float) -> None:
        pass


class Outside:
    """A script that writes nothing outside its project."""

    def written(self) -> dict[str, tuple[int, int]]:
        return {}


class Execs:
    """Nobody sends commands."""

    def open(self) -> None:
        pass

    shut = settle = open
