"""A machine: its own timer, which comes first, and the real agent over a script that only takes time.

The agent's phases, interrupts, deadline, grace, commits by number and last words are those of
`sojourn.agent`. Simulated are its processes and files: a script that runs for so long and
writes a checkpoint from time to time, and what can befall a machine.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import json
import re
import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from simulation.faults import Faults
from simulation.store import Disk, MachineStore
from simulation.world import MachineClock, World
from sojourn.agent.agent import Agent
from sojourn.agent.errors import Exists
from sojourn.agent.files import Json
from sojourn.agent.mailbox import Place, dump
from sojourn.agent.manifests import Manifests
from sojourn.agent.mask import Mask
from sojourn.agent.work import Work

STARTING_S = (3.0, 30.0)  # from power to the agent's first word
FETCHING_S = (1.0, 10.0)
COMMIT_EVERY_S = 15.0
CHECKPOINT_S = 10.0  # the script writes one that often
KEPT = 2
FILE = "outputs/model.pt"


@dataclass(frozen=True)
class Job:
    """What the script is."""

    seconds: float = 40.0
    exit_code: int = 0
    listens: bool = False  # whether it handles SIGTERM, which takes it two seconds
    upload_s: float = 0.0  # how long its checkpoint is on its way


@dataclass(frozen=True)
class Mishap:
    """What befalls a machine, in seconds after it came up."""

    # `freezes`: nothing of it works any more; `away`: there is no way to the store, for so many seconds
    what: Literal["freezes", "agent dies", "agent hangs", "away", "is taken back"]
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
    off: Callable[[str], None]
    skew: float = 0.0
    mishaps: tuple[Mishap, ...] = ()
    notice: Callable[[], float | None] = lambda: None
    taken: Callable[[], bool] = lambda: False  # back by its cloud, where that does so
    frozen: bool = False

    def start(self) -> None:
        """Power: the timer is armed before all else."""
        self.process = self.world.process(self.name, self.skew, on_machine=True)
        self.store = MachineStore(self.disk, self.process, self.faults)
        if self.timer is not None:
            end, life = self.timer
            left = min(max(0.0, end - self.process.clock.now()), life)
            self.world.later(left, lambda: self._end("timer"))
        for mishap in self.mishaps:
            self.world.later(mishap.after, lambda mishap=mishap: self._befall(mishap))
        self.process.start(self._run)

    def stop(self) -> None:
        """Its power is cut."""
        self.process.kill()

    def _run(self) -> None:
        self.process.sleep(self.world.chance.uniform(*STARTING_S))
        agent = SimulatedAgent(self)
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
    """The agent over a machine that is simulated: its facts, its script, its files."""

    def __init__(self, machine: Machine) -> None:
        clock = machine.process.clock
        metadata: Any = Metadata(machine) if machine.boot.get("metadata") else None
        super().__init__("agent", machine.boot, machine.node, "/", "10.0.0.1", machine.store, metadata, clock)
        self._machine = machine

    def last_words(self) -> str:
        return f"{self._exit['reason']}: {self._exit['message']}"

    def _facts(self) -> Json:
        return {"port": 29500, "cpus": 8, "memory": 2**34, "gpus": [], "python": "3.12.0"}

    def _start(self, order: Json) -> Work:
        machine, clock = self._machine, self._machine.process.clock
        self._heart.phase = "fetching"
        clock.sleep(machine.world.chance.uniform(*FETCHING_S))
        script = Script(machine.job, clock, self._restored(order))
        commits = Commits(machine.store, self._place, clock, script, machine.job.upload_s)
        self._interrupts.check()
        parts: Any = (script, Log(), commits, Scalars(), Execs(), Mask([]))
        work = Work(*parts, self._grace, self._store.patience_s)
        work.start()
        self._heart.phase = "running"
        return work

    def _restored(self, order: Json) -> int:
        """The progress that the checkpoint among the inputs holds."""
        sources = [entry["source"] for entry in order["inputs"] if entry["path"] == FILE]
        return int(self._store.get(sources[0])) if sources else 0

    def _diagnose(self, work: Work) -> None:
        pass


class Metadata:
    """The machine's metadata service, as far as the agent asks it."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def interruption(self) -> dict[str, str] | None:
        at = self._machine.notice()
        moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at)) if at else ""
        return {"action": "terminate", "time": moment} if at else None


class Script:
    """A script that makes progress by the second (`sojourn.agent.script.Script`)."""

    cwd = "/"

    def __init__(self, job: Job, clock: MachineClock, before: int) -> None:
        self._job = job
        self._clock = clock
        self._before = before
        self._began = clock.monotonic()
        self._stopped_at: float | None = None
        self.started_at = clock.now()
        self.status: int | None = None
        self.killed = self.aborted = False

    @property
    def written(self) -> int:
        """The progress that its newest checkpoint holds."""
        end = self._clock.monotonic() if self._stopped_at is None else self._stopped_at
        done = self._before + end - self._began
        return min(int(done), int(self._job.seconds)) if self.status == 0 else int(done // CHECKPOINT_S * CHECKPOINT_S)

    def poll(self) -> int | None:
        if self.status is None and self._before + self._clock.monotonic() - self._began >= self._job.seconds:
            self.status = self._job.exit_code << 8
            self._stopped_at = self._clock.monotonic()
        return self.status

    def stop(self, grace: float, stacks_s: float = 0.0) -> None:
        if self.poll() is None and self._job.listens:
            self._clock.sleep(min(2.0, grace))
        self.end()

    def end(self) -> None:
        if self.poll() is None:
            self.killed, self.status, self._stopped_at = True, 9, self._clock.monotonic()

    def ended(self) -> tuple[int | None, str | None]:
        if self.status is None:
            return None, None
        return (137, "SIGKILL") if self.status == 9 else (self.status >> 8, None)

    def ranks(self) -> list[Json]:
        return []

    def pids(self) -> list[int]:
        return []

    def tail(self, rank: int) -> bytes:
        return b""


class Log:
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


class Execs:
    """Nobody sends commands."""

    def open(self) -> None:
        pass

    shut = settle = open


@dataclass
class Commits:
    """What the script wrote, committed by number as `sojourn.agent.commit` does it."""

    store: MachineStore
    place: Place
    clock: MachineClock
    script: Script
    upload_s: float
    root: str = "/"
    troubles: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    busy: bool = False
    last: int = -1

    def __post_init__(self) -> None:
        self.manifests = {kind: Manifests(self.store, self.place, kind, self.clock) for kind in ("out", "ckpt")}  # type: ignore[arg-type]
        self.stored: set[str] = set()

    @property
    def sequences(self) -> dict[str, int]:
        return {"output": self.manifests["out"].sequence, "checkpoint": self.manifests["ckpt"].sequence}

    def start(self) -> None:
        self.still = self.clock.every(COMMIT_EVERY_S, self._commit)

    def stable(self, until: float) -> None:
        self._take_over(until)
        self._commit()

    def final(self, until: float, torn: bool) -> None:
        self._take_over(until)
        patience = min(until, self.clock.monotonic() + self.store.patience_s)
        for pause in itertools.chain((0.2, 0.5, 1.0, 2.0), itertools.repeat(5.0)):
            self._commit()
            if not self.troubles or self.clock.monotonic() + pause > patience:
                return
            self.clock.sleep(pause)

    def settle(self, seconds: float) -> None:
        pass

    def _take_over(self, until: float) -> None:
        self.still()
        while self.busy and self.clock.monotonic() < until:
            self.clock.sleep(0.1)

    def _commit(self) -> None:
        if self.busy:
            return
        self.busy = True
        try:
            self.troubles = {}
            if self.script.written != self.last:
                self._keep(self.script.written)
        except OSError as error:
            self.troubles["the manifest"] = str(error)
        finally:
            self.busy = False

    def _keep(self, progress: int) -> None:
        body = str(progress).encode()
        self.clock.sleep(self.upload_s)
        digest, size = self.store.keep(self.place.blobs, io.BytesIO(body), lambda: None)
        source = f"{self.place.blobs}/{digest}"
        self.stored.add(source)
        entry = {"path": FILE, "hash": f"sha256:{digest}", "size": size, "mode": 0o644, "source": source}
        checkpoints = self.manifests["ckpt"]
        checkpoints.write([entry])
        if self.place.rank == 0 and len(self.place.nodes) == 1:
            whole = {"sequence": checkpoints.sequence, "at": self.clock.now(), "nodes": 1}
            with contextlib.suppress(Exists):
                self.store.create(self.place.key(f"commit/{checkpoints.sequence:08d}.json"), dump(whole))
        self.manifests["out"].write([entry])
        self.last = progress
        kept = {name for one in self.manifests.values() for name in one.sources_since(one.sequence - KEPT + 1)}
        for source in sorted(self.stored - kept):
            self.store.delete(source)
            self.stored.discard(source)


def readable(disk: Disk, manifest: Json) -> bool:
    """Whether every file that a manifest names is there as it was promised."""
    bodies = ((entry, disk.objects.get(entry["source"])) for entry in manifest["files"])
    return all(found and f"sha256:{hashlib.sha256(found[0]).hexdigest()}" == entry["hash"] for entry, found in bodies)
