"""The life of an instance, which moto does not have: pending, running, shutting-down, terminated, each in its time.

A `Power` turns a machine on and off and says when it is up or down; what an instance's state then
becomes is decided here, as EC2 decides it. Moto's own record of the instance (volumes, interface,
profile) ends only when the machine is down.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import Any, Protocol

from moto.ec2.exceptions import InvalidInstanceIdError
from moto.ec2.models.instances import InstanceState, StateReason

ACCOUNT = "123456789012"  # moto's own
# https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_InstanceState.html
CODES = {"pending": 0, "running": 16, "shutting-down": 32, "terminated": 48, "stopping": 64, "stopped": 80}
ENDING = ("shutting-down", "terminated")

# https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_StateReason.html
BY_USER = "Client.UserInitiatedShutdown: User initiated shutdown"
FROM_INSIDE = "Client.InstanceInitiatedShutdown: Instance initiated shutdown"
SPOT_TAKEN = "Server.SpotInstanceTermination: Spot instance termination"


class Power(Protocol):
    """What runs the machines. Both return at once; `Machines` is told by `is_up` and `is_down`."""

    def on(self, machine: Machine) -> None: ...

    def off(self, machine: Machine) -> None: ...

    def clear(self) -> None:
        """Every machine off at once, without a word; returns when nothing is left."""


@dataclass
class Timing:
    """How slow this cloud is, in seconds."""

    boot_s: float = 0.05  # from RunInstances to running; with hosts the host's own time comes on top
    shutdown_s: float = 0.05  # from shutting-down to terminated
    visible_after_s: float = 0.0  # until DescribeInstances shows a new instance
    grace_s: float = 2.0  # that a host has to shut down in order
    credentials_s: float = 6 * 3600.0  # that a machine's keys are good for
    remembered_s: float = 3600.0  # that an instance is known after its end
    profile_known_after_s: float = 0.0  # until EC2 knows an instance profile that IAM has made
    minute_ahead_s: float = 0.0  # by which the scheduler's clock is ahead, so that no test waits for its minute


@dataclass
class Machine:
    """An instance and what moto does not keep of it."""

    instance: Any  # moto.ec2.models.instances.Instance
    backend: Any  # moto.ec2.models.EC2Backend
    role: str | None  # the ARN of the role that its profile held at launch
    market: str
    visible_at: float
    launched_at: float = field(default_factory=time.time)
    ended_at: float | None = None
    asked_at: float | None = None  # to end
    reason: str = ""
    notice_at: float | None = None  # when spot takes the machine back, once it was said
    crashed: bool = False  # its processes are gone, and EC2 has not noticed

    @property
    def id(self) -> str:
        return str(self.instance.id)

    @property
    def region(self) -> str:
        return str(self.backend.region_name)

    @property
    def zone(self) -> str:
        return str(self.instance.placement.zone)

    @property
    def type(self) -> str:
        return str(self.instance.instance_type)

    @property
    def state(self) -> str:
        return str(self.instance.state)

    @property
    def tags(self) -> dict[str, str]:
        return {tag["key"]: tag["value"] for tag in self.instance.get_tags()}

    @property
    def visible(self) -> bool:
        return time.time() >= self.visible_at

    def become(self, state: str) -> None:
        self.instance._state = InstanceState(state, CODES[state])

    def record(self) -> dict[str, Any]:
        """What a test is told, and what Amazon would bill."""
        return {
            "id": self.id,
            "type": self.type,
            "region": self.region,
            "zone": self.zone,
            "market": self.market,
            "state": self.state,
            "reason": self.reason.partition(":")[0],
            "address": self.instance.private_ip,
            "token": self.instance.client_token,
            "tags": self.tags,
            "launched_at": self.launched_at,
            "ended_at": self.ended_at,
        }


class Machines:
    """Every instance ever started in this cloud, since the last reset."""

    def __init__(self, timing: Timing) -> None:
        self.timing = timing
        self._stub: Power = StubPower(self)
        self.hosts: Power | None = None  # where machines can run
        self.power: Power = self._stub
        self._known: dict[str, Machine] = {}
        self._lock = threading.RLock()

    def run(self, hosts: bool) -> None:
        """Whether machines run from now on, or only seem to. Raises where they cannot."""
        if hosts and self.hosts is None:
            raise LookupError("this cloud has no hosts: AwsCloud(hosts=True)")
        self.power = self.hosts if hosts and self.hosts else self._stub

    def launched(self, instance: Any, backend: Any, role: str | None, market: str) -> Machine:
        """Take over an instance that moto has just made."""
        machine = Machine(instance, backend, role, market, time.time() + self.timing.visible_after_s)
        with self._lock:
            machine.become("pending")
            self._known[machine.id] = machine
        self.power.on(machine)
        return machine

    def all(self) -> list[Machine]:
        with self._lock:
            return list(self._known.values())

    def living(self) -> list[Machine]:
        return [machine for machine in self.all() if machine.state != "terminated"]

    def get(self, instance_id: str) -> Machine:
        try:
            return self._known[instance_id]
        except KeyError:
            raise InvalidInstanceIdError(instance_id) from None

    def seen(self, instance_id: str) -> bool:
        """Whether the API knows it: a new instance takes a while to be known everywhere, an old one is forgotten."""
        machine = self._known.get(instance_id)
        if machine is None or not machine.visible:
            return False
        return machine.ended_at is None or time.time() < machine.ended_at + self.timing.remembered_s

    def is_up(self, machine: Machine) -> None:
        with self._lock:
            if machine.state == "pending":
                machine.become("running")

    def is_down(self, machine: Machine) -> None:
        """The machine is off: because it was told to be, or because it went by itself."""
        with self._lock:
            if machine.state == "shutting-down":
                self._end(machine)
            elif machine.state == "stopping":
                self._stop(machine)
            elif machine.state in ("pending", "running"):
                machine.reason = FROM_INSIDE
                behaviour = machine.instance.instance_initiated_shutdown_behavior
                self._end(machine) if behaviour == "terminate" else self._stop(machine)

    def terminate(self, machine: Machine, reason: str = BY_USER) -> InstanceState:
        """Begin the end; returns the state until now."""
        with self._lock:
            before = machine.instance._state
            if machine.state in ENDING:
                return before  # type: ignore[no-any-return]
            machine.reason, machine.asked_at = reason, time.time()
            machine.become("shutting-down")
            _say_why(machine)
        self.power.off(machine)
        return before  # type: ignore[no-any-return]

    def interrupt(self, machine: Machine, notice_s: float) -> None:
        """Say that spot wants the machine back, and take it when the notice is over."""
        machine.notice_at = time.time() + notice_s
        _later(notice_s, self._reclaim, machine)

    def _reclaim(self, machine: Machine) -> None:
        self.terminate(machine, SPOT_TAKEN)

    def stop(self, machine: Machine) -> None:
        with self._lock:
            if machine.state not in ("pending", "running"):
                return
            machine.reason = BY_USER
            machine.become("stopping")
        self.power.off(machine)

    def start(self, machine: Machine) -> None:
        with self._lock:
            if machine.state != "stopped":
                return
            machine.instance.start()
            machine.become("pending")
        self.power.on(machine)

    def forget(self) -> None:
        """Turn everything off, for a reset: what is told of these machines later changes nothing."""
        with self._lock:
            gone, self._known = list(self._known.values()), {}
            for machine in gone:
                machine.become("shutting-down")
        self.power.clear()

    def _end(self, machine: Machine) -> None:
        if machine.id in self._known:
            machine.instance.terminate()
        machine.become("terminated")
        machine.ended_at = time.time()
        _say_why(machine)

    def _stop(self, machine: Machine) -> None:
        machine.instance.stop()
        machine.become("stopped")
        _say_why(machine)


def _say_why(machine: Machine) -> None:
    machine.instance.state_reason = StateReason(machine.reason, machine.reason.partition(":")[0])
    # "User initiated (2026-01-31 12:00:00 GMT)", and nothing when it was not the user.
    now = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(machine.asked_at))
    machine.instance._reason = f"User initiated ({now} GMT)" if machine.reason == BY_USER else ""


class StubPower:
    """Machines without hosts: up after a while, down after a while, and nothing runs on them."""

    def __init__(self, machines: Machines) -> None:
        self._machines = machines

    def on(self, machine: Machine) -> None:
        _later(self._machines.timing.boot_s, self._machines.is_up, machine)

    def off(self, machine: Machine) -> None:
        _later(self._machines.timing.shutdown_s, self._machines.is_down, machine)

    def clear(self) -> None:
        """Nothing runs."""


def _later(seconds: float, what: Any, machine: Machine) -> None:
    timer = threading.Timer(seconds, what, (machine,))
    timer.daemon = True
    timer.start()
