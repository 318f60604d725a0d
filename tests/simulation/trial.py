"""One history: runs, orchestrators, reapers, machines and faults in one world, and the verdict afterwards."""

from __future__ import annotations

import atexit
import hashlib
import json
import os
import re
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from simulation import amazon, local
from simulation.amazon import Amazon
from simulation.faults import Faults
from simulation.local import Host, SimulatedLocal
from simulation.machine import Machine, Mishap, read_user_data
from simulation.screen import Screen, SimulatedRelay
from simulation.script import Job
from simulation.store import BucketStore, Disk
from simulation.versions import UNKNOWN_KIND
from simulation.world import START, Process, World
from sojourn.agent.pack import Archive
from sojourn.errors import SojournError, SpecError, SupersededError, UnreadableError
from sojourn.lease.state import State
from sojourn.names import mint_run_id
from sojourn.plan.planning import Plan
from sojourn.protocol import Bundle, Stop
from sojourn.providers.contract import Provider
from sojourn.providers.ec2.provider import Ec2Provider
from sojourn.renting import Boot
from sojourn.results.publish import Inputs
from sojourn.run.journey import Journey, walk
from sojourn.run.reap import reap
from sojourn.store.mailbox import Mailbox

GOLDEN = Path(__file__).parent.parent / "golden" / "plan.json"
STORE = "s3://simulated"
PROJECT = "digits"
AGENT = Archive(b"not looked at: machines here run the agent in place", "0" * 64)
REAP_EVERY_S = 600.0


@dataclass(frozen=True)
class Refusal:
    """For some time, in seconds of the history, the cloud has no machines, and says so with this code."""

    after: int
    seconds: int
    code: str = "InsufficientInstanceCapacity"
    region: str = ""  # everywhere without one

    @property
    def until(self) -> float:
        return START + self.after + self.seconds


@dataclass(frozen=True)
class Setting:
    """What is run, and who is there to look after it."""

    where: str = "aws"
    nodes: int = 1
    job: Job = Job()
    machine_skew: float = 0.0  # by which its machines' clocks are off
    deadline_s: float = 420.0
    grace_s: float = 60.0
    wait_s: float = 120.0
    version: str = ""  # of the product that planned it and rents its machines (`simulation.versions`)
    hold_s: float = 0.0  # for which the machines of a script that failed are held
    reaper: bool = True
    adopts_after: float | None = None  # somebody attaches to the run, that long after the start
    timers: bool = True  # the cloud's own
    machine_timers: bool = True
    copied: bool = False  # somebody makes one more like each machine of Amazon's, with all its tags
    mishaps: Mapping[int, Mishap] = field(default_factory=dict)  # by the order in which machines come up
    refusals: Sequence[Refusal] = ()


MEMORY = "/dev/shm"  # where no file waits for a disk that outlives the process anyway


@cache
def home() -> Path:
    """The data directory of every orchestrator here, which keeps nothing but the store's URL; machines' disks too."""
    folder = Path(tempfile.mkdtemp(prefix="sojourn-simulation-", dir=MEMORY if os.access(MEMORY, os.W_OK) else None))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _forget_earlier_trials() -> None:
    """What one trial left in the data directory would be known to the next, which has runs of the same names."""
    for entry in home().iterdir():
        if entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink()


class Silent:
    """Who is told what happens, and does not care."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_, **__: None


SILENT = Silent()


@dataclass
class Trial:
    """A world with one kind of cloud in it."""

    seed: int = 0
    setting: Setting = field(default_factory=Setting)
    faults: Faults = field(default_factory=Faults)

    def __post_init__(self) -> None:
        self.world = World(self.seed)
        self.disk = Disk()
        self.machines: dict[str, Machine] = {}
        _forget_earlier_trials()
        self._folder = home() / f"machines of {id(self)}"
        self.broken: list[str] = []
        self.ends: dict[str, str] = {}  # how orchestrators came to their ends
        self.plans: dict[str, Plan] = {}
        self.settings: dict[str, Setting] = {}
        self.damaged: set[str] = set()  # runs of which an object lost what it held
        self.sweeps_off = 0.0  # by which the clock is of the host that sweeps
        self.sweeper: Process | None = None
        on_amazon = self.setting.where == "aws"
        self.amazon = Amazon(self.world, self.faults, self._boot, self._cut, timers=self.setting.timers)
        self.host = Host(self.world, self.faults, self._spawn, self._cut)
        self.cloud: Any = self.amazon if on_amazon else self.host
        self._add_strangers()
        self.amazon.refuses = self._refused

    # -- who acts --

    def plan(self, seed: str = "one", setting: Setting | None = None) -> Plan:
        """The plan of a run, whose bundle and inputs lie in the store already."""
        content = json.loads(GOLDEN.read_text())
        setting, now, run = setting or self.setting, self.world.now, mint_run_id(f"{seed} {self.seed}")
        content["launch"] |= {
            "where": setting.where, "nodes": setting.nodes, "processes": 1, "deadline": setting.deadline_s,
            "grace": setting.grace_s, "wait": setting.wait_s, "outputs": [], "inputs": [],
            "hold_on_failure": setting.hold_s,
        }  # fmt: skip
        content |= {
            "run": run, "place": "" if setting.version == "earlier" else hashlib.sha256(run.encode()).hexdigest()[:32],
            "project": PROJECT, "created_at": now, "store": STORE,
            "store_region": "us-east-1", "deadline_at": now + setting.deadline_s, "directory": str(home()),
            "named_outputs": [], "left_out": [], "host": socket.gethostname(),
        }  # fmt: skip
        content["environment"]["path"] = []  # nobody looks for a program of the simulated host
        details = {
            "image": "ami-1", "profile": "p", "subnet": "s", "group": "g", "root_device": "/dev/sda1", "disk": 8,
            "scheduler_role": "arn:role",
        }  # fmt: skip
        for offer, region in zip(content["offers"], self.amazon.regions, strict=True):
            offer |= {"provider": setting.where, "region": region, "details": details}
        content["command"]["argv"] = [sys.executable, "train.py"]  # a program that is there, whatever the PATH
        content["offers"][0]["market"] = "spot"
        content["offers"] = content["offers"] if setting.where == "aws" else content["offers"][:1]
        content["capability"] = self.provider(self.world.process("planner")).capability().model_dump(mode="json")
        plan = Plan.model_validate(content)
        self.plans[plan.run] = plan
        self.settings[plan.run] = setting
        nothing = Bundle(files=(), listing=(), directory=".")
        self.disk.objects[f"control/{PROJECT}/{plan.run}/bundle.json"] = nothing.to_bytes(), now
        self.disk.objects[f"control/{PROJECT}/{plan.run}/inputs.json"] = Inputs(files=()).to_bytes(), now
        return plan

    def provider(self, process: Process) -> Provider:
        """The provider in the hands of a process."""
        if self.setting.where == "local":
            return SimulatedLocal(self.host, process)
        clients: Any = self.amazon.clients(process)
        agent = Archive(process.version.encode(), "1" * 64) if process.version else AGENT
        return Ec2Provider(clients, agent=agent, clock=process.clock)

    def train(
        self,
        plan: Plan,
        name: str = "orchestrator",
        after: float = 0.0,
        skew: float = 0.0,
        screen: Screen | None = None,
    ) -> Process:
        """`sojourn train`, by the version that planned the run."""
        process = self.world.process(name, skew)
        process.version = self.settings[plan.run].version
        if process.version:
            self.faults.injected.append(f"{name} is of a version: {process.version}")

        def body() -> None:
            with self._shown(process, screen) as listener:
                parts = self._parts(plan, process, listener)
                journey = Journey.begin(plan, *parts, clock=process.clock, owner=name)
                if process.version == "later":
                    _audit(journey)
                walk(journey)

        self.world.later(after, lambda: process.start(lambda: self.ending(name, body)))
        return process

    def attach(
        self,
        plan: Plan,
        name: str = "adopter",
        after: float = 0.0,
        skew: float = 0.0,
        take_over: bool = False,
        version: str = "",
        screen: Screen | None = None,
    ) -> Process:
        """`sojourn attach`, again after a while when the owner lives."""
        process = self.world.process(name, skew)
        process.version = version
        if version:
            self.faults.injected.append(f"{name} is of a version: {version}")

        def body() -> None:
            while self.disk.objects.get(f"control/{PROJECT}/{plan.run}/plan.json"):
                try:
                    with self._shown(process, screen) as listener:
                        parts = self._parts(plan, process, listener)
                        walk(Journey(plan, *parts, clock=process.clock, owner=name), take_over)
                    return
                except SojournError as error:
                    self.world.note(f"{name}: {error}")
                    if self._closed(plan.run):
                        return
                    process.sleep(60.0)

        self.world.later(after, lambda: process.start(lambda: self.ending(name, body)))
        return process

    def stop(self, plan: Plan, after: float, name: str = "user") -> None:
        """`sojourn stop`."""
        process = self.world.process(name)
        box = Mailbox(self.store(process), plan.project, plan.run)
        stop = Stop(reason="by hand", at=self.world.now + after)
        self.world.later(after, lambda: process.start(lambda: self.ending(name, lambda: box.request_stop(stop))))

    def reaper(self, phase: float = 0.0, skew: float = 0.0) -> None:
        """`sojourn reap` every ten minutes, on a host whose clock may be off."""
        sweeps = iter(range(10_000))
        self.sweeps_off += skew

        def sweep() -> None:
            self.sweeper = process = self.world.process(f"reaper {next(sweeps)}", self.sweeps_off)
            process.start(lambda: self._sweep(process))
            self.world.later(REAP_EVERY_S, sweep)

        self.world.later(phase, sweep)

    def set_sweeps_clock(self, seconds: float) -> None:
        """Somebody sets the clock of the host that sweeps, in the middle of a sweep or between two."""
        self.faults.injected.append(f"the sweeps' clock set by {seconds} s")
        self.sweeps_off += seconds
        if self.sweeper is not None:
            self.sweeper.clock.jump(seconds)

    def _sweep(self, process: Process) -> None:
        def journey_of(plan: Plan, mailbox: Mailbox) -> Journey:
            return Journey(plan, *self._parts(plan, process), clock=process.clock, owner=process.name)

        provider: Any = self.provider(process)
        places = provider.apart() if self.setting.where == "aws" else [provider]
        clock = process.clock
        for finding in reap([self.store(process)], places, journey_of, dry_run=False, clock=clock):
            self.world.note(f"{process.name}: {finding.name}: {finding.action}: {finding.reason}")
            if finding.action == "failed" and re.match(
                r"[A-Z]\w+: ", finding.reason
            ):  # nothing of ours says it like that
                self.world.surprises.append(f"{process.name}: {finding}")

    def _parts(self, plan: Plan, process: Process, listener: Any = SILENT) -> tuple[Mailbox, Provider, Path, Any]:
        mailbox = Mailbox(self.store(process), PROJECT, plan.run)
        return mailbox, self.provider(process), home(), listener

    @contextmanager
    def _shown(self, process: Process, screen: Screen | None) -> Iterator[Any]:
        """Who is told what happens: nobody, or a reader behind a relay, for whom a command line waits at its end."""
        if screen is None:
            yield SILENT
            return
        self.faults.injected.append(f"{process.name}'s screen {screen.what}")
        relay = SimulatedRelay(process, screen)
        yield relay
        relay.drain()

    def store(self, process: Process) -> BucketStore:
        return BucketStore(STORE, self.disk, process, self.faults)

    def ending(self, name: str, body: Callable[[], None]) -> None:
        try:
            body()
            self.ends[name] = "done"
        except SupersededError as error:
            self.ends[name] = f"superseded: {error}"
        except UnreadableError as error:
            self.ends[name] = f"UnreadableError: {error}"
            if not self.damaged:
                self.world.surprises.append(f"{name}: {error}")
        except SpecError as error:  # nobody asks for anything wrong here, but on a host whose clock was set before
            self.ends[name] = f"SpecError: {error}"
            if "this computer's clock is" not in error.message:
                self.world.surprises.append(f"{name}: {error}")
        except SojournError as error:
            self.ends[name] = f"{type(error).__name__}: {error}"
        self.world.note(f"{name}: {self.ends[name]}")

    # -- machines --

    def _boot(self, instance: amazon.Instance) -> None:
        if instance.is_strangers:
            return
        if self.setting.copied:
            call = {**instance.call, "ClientToken": f"stranger-{instance.identity}", "MaxCount": 1}
            call.pop("InstanceMarketOptions", None)  # what a copy is unless told otherwise
            self.amazon.run_instances(instance.region, **call)
        boot, timer = read_user_data(instance.call["UserData"])
        self._power(
            instance.identity, boot, instance.launch_index, timer,
            lambda by: self.amazon.terminate(instance, "Client.InstanceInitiatedShutdown"),
            lambda: instance.notice_at, lambda: self.amazon.take_back(instance),
        )  # fmt: skip

    def _spawn(self, node: local.Node) -> None:
        boot = Boot.model_validate(node.boot)
        timer = boot.deadline_at + boot.grace_s, float("inf")
        names = {"timer": "supervisor timer", "agent": "exit"}
        self._power(
            node.identity, boot.model_dump(mode="json"), node.index, timer,
            lambda by: self.host.end(node, names[by]), lambda: None, lambda: False,
        )  # fmt: skip

    def _power(self, identity: str, boot: Any, node: int, timer: Any, off: Any, notice: Any, taken: Any) -> None:
        setting, of_run = self.setting, self.settings[boot["run"]]
        mishap = setting.mishaps.get(len(self.machines))
        (self._folder / identity).mkdir(parents=True)
        self.machines[identity] = Machine(
            self.world, self.disk, self.faults, identity, boot, node, timer if setting.machine_timers else None,
            of_run.job, self._folder / identity, off, notice=notice, taken=taken,
            skew=of_run.machine_skew, mishaps=(mishap,) if mishap else (), version=of_run.version,
        )  # fmt: skip
        self.machines[identity].start()

    def _cut(self, instance: Any) -> None:
        if instance.identity in self.machines:
            self.machines[instance.identity].stop()

    # -- the whole of it --

    def run(self) -> list[str]:
        """Let the history happen, with one run in it, and say what was broken."""
        plan = self.plan()
        self.train(plan)
        if self.setting.adopts_after is not None:
            self.attach(plan, after=self.setting.adopts_after)
        if self.setting.reaper:
            self.reaper(phase=self.world.chance.uniform(0, REAP_EVERY_S))
        return self.finish()

    def finish(self) -> list[str]:
        """Until long after every bound; then the verdict."""
        from simulation.verdict import verdict

        last = max(plan.deadline_at + plan.launch.grace for plan in self.plans.values())
        self.world.run(last + 3 * REAP_EVERY_S)
        try:
            return verdict(self)
        finally:
            self.world.end()
            shutil.rmtree(self._folder, ignore_errors=True)

    def _refused(self, region: str) -> str | None:
        """What Amazon answers to who wants machines of a region now, where it has none."""
        now, refusals = self.world.now, self.setting.refusals
        here = (one for one in refusals if one.region in ("", region) and START + one.after <= now < one.until)
        return next((one.code for one in here), None)

    def _closed(self, run: str) -> bool:
        bodies = (self.disk.objects[key][0] for key in self.disk.below(f"control/{PROJECT}/{run}/ledger/"))
        return any(b'"kind": "closed"' in body or b'"kind":"closed"' in body for body in bodies)

    def _add_strangers(self) -> None:
        """Other people's machines and timers, with names and tags much like ours."""
        tags = ({"Name": "my-data"}, {"sojourn:lease": "sojourn-quiet-heron-7f3a-1-0-0000"}, {"sojourn:lease": "ours"})
        for number, tag in enumerate(tags):
            specification = {"ResourceType": "instance", "Tags": [{"Key": k, "Value": v} for k, v in tag.items()]}
            call = {"ClientToken": f"stranger-{number}", "MaxCount": 1, "TagSpecifications": [specification]}
            self.amazon.run_instances("us-east-1", **call)
        expression = "at(2099-01-01T00:00:00)"
        target = {"Input": json.dumps({"InstanceIds": ["i-0000"]})}
        self.amazon.create_schedule("us-east-1", Name="nightly", ScheduleExpression=expression, Target=target)


def _audit(journey: Journey) -> None:
    """What a later version may do: write a line into its ledger that nobody else knows."""
    watch, written = journey.orchestrator.watch, False

    def watched(state: State) -> None:
        nonlocal written
        watch(state)
        if state.ordered_at is not None and not written:
            written = True
            with suppress(SojournError):
                journey.ledger.append(UNKNOWN_KIND, why=None)  # type: ignore[arg-type]

    journey.orchestrator.watch = watched


def since(moment: float) -> str:
    """A moment as seconds of the history."""
    return f"{moment - START:.1f}"
