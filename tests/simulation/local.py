"""This host as a provider: simulated processes where `sojourn.providers.local` has supervisors.

Its layers are the real one's, by the real capability record: a supervisor's timer and the
agent's, and no cloud that would end anything.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from simulation.faults import Faults, When
from simulation.world import Process, World
from sojourn.errors import SpecError, TransientError
from sojourn.names import LeaseName
from sojourn.providers.contract import Request
from sojourn.providers.local import LocalProvider
from sojourn.renting import Boot, Capability, Lease, Lookalike, Machine, Need, Offer, Offers

T = TypeVar("T")
LATENCY_S = 0.05


@dataclass
class Node:
    """One supervisor, with all below it."""

    identity: str
    lease: str
    boot: dict[str, object]
    index: int
    launched_at: float
    ended_at: float | None = None
    why: str = ""
    is_strangers = False  # nobody else has any here

    @property
    def gone_at(self) -> float:
        return float("inf") if self.ended_at is None else self.ended_at

    @property
    def deadline_at(self) -> float:
        return float(self.boot["deadline_at"])  # type: ignore[arg-type]


@dataclass
class Host:
    """What stands on this host: the directory of leases and the process table in one."""

    world: World
    faults: Faults
    start: Callable[[Node], None]
    stop: Callable[[Node], None]
    instances: dict[str, Node] = field(default_factory=dict)
    requests: dict[str, Request] = field(default_factory=dict)
    released: set[str] = field(default_factory=set)

    def of(self, name: str) -> list[Node]:
        return [one for one in self.instances.values() if one.lease == name]

    def end(self, node: Node, why: str) -> None:
        if node.ended_at is None:
            node.ended_at, node.why = self.world.now, why
            self.world.note(f"host: {node.identity} of {node.lease} ends: {why}")
            self.stop(node)

    def standing(self) -> list[str]:
        return [one.identity for one in self.instances.values() if one.ended_at is None]


class SimulatedLocal:
    """The six verbs over a `Host`, in the hands of one process."""

    name = "local"

    def __init__(self, host: Host, process: Process) -> None:
        self._host = host
        self._process = process

    def capability(self) -> Capability:
        return LocalProvider(Path("/nowhere")).capability()

    def store(self, project: str) -> str | None:
        return None

    def offers(self, need: Need) -> Offers:
        raise NotImplementedError

    def request(self, boot: Boot, offer: Offer) -> Request:
        name = LeaseName.parse(boot.lease)
        assert name is not None
        machines = [name.machine(node) for node in range(boot.nodes)]
        return {"token": boot.lease, "machines": machines, "boot": boot.model_dump(mode="json")}

    def create(self, request: Request) -> None:
        def effect() -> None:
            name = request["token"]
            if name in self._host.released:
                return
            if self._host.requests.setdefault(name, request) != request:
                raise SpecError(f"another request was made under {name}")
            for index in range(len(request["machines"]) - len(self._host.of(name))):
                self._launch(name, index, request)

        self._ask("create", effect)

    def observe(self, name: str) -> Lease | None:
        return self._ask("observe", lambda: self._look(name))

    def release(self, name: str) -> bool:
        def effect() -> bool:
            self._host.released.add(name)
            for node in self._host.of(name):
                self._host.end(node, "release")
            return True

        return self._ask("release", effect)

    def release_all(self, names: Sequence[str]) -> list[bool | Exception]:
        def release(name: str) -> bool | Exception:
            try:
                return self.release(name)
            except TransientError as error:
                return error

        return [release(name) for name in names]

    def leases(self) -> list[Lease]:
        def effect() -> list[Lease]:
            found = (self._look(name) for name in sorted(self._host.requests))
            return [lease for lease in found if lease is not None and not lease.gone]

        return self._ask("leases", effect)

    def now(self) -> float | None:
        return self._host.world.now

    def lookalikes(self) -> list[Lookalike]:
        return []

    def _launch(self, name: str, index: int, request: Request) -> None:
        host = self._host
        identity = f"pid {1000 + len(host.instances)}"
        node = Node(identity, name, request["boot"], index, host.world.now)
        host.instances[identity] = node
        host.world.note(f"host: {identity} of {name} starts")
        host.start(node)

    def _look(self, name: str) -> Lease | None:
        request = self._host.requests.get(name)
        if request is None:
            return None
        boot = request["boot"]
        return Lease(
            name=name,
            project=boot["project"],
            run=boot["run"],
            attempt=boot["attempt"],
            deadline_at=boot["deadline_at"],
            grace_s=boot["grace_s"],
            machines=tuple(_machine(node) for node in self._host.of(name)),
            store=boot["store"],
        )

    def _ask(self, verb: str, effect: Callable[[], T]) -> T:
        def refusal(when: When) -> Exception:
            return TransientError(f"local: {verb}: {'refused' if when == 'before' else 'no answer'}")

        return self._host.faults.call(self._process, f"local.{verb}", effect, LATENCY_S, refusal)


def _machine(node: Node) -> Machine:
    return Machine(
        name=f"{node.lease}-n{node.index}",
        state="running" if node.ended_at is None else "gone",
        identity=node.identity,
        created_at=node.launched_at,
        ended_at=node.ended_at,
        ended_by=node.why or None,
    )
