"""The door for tests: `POST /.stand-in/VERB` with JSON, answered with JSON.

Every public method of `Control` is a verb; its parameters are the JSON's keys.
"""

from __future__ import annotations

import base64
import json
import traceback
from collections.abc import Callable
from typing import Any

from clouds.aws import answers
from clouds.aws.calls import Call
from clouds.aws.faults import Fault
from clouds.aws.machines import Machine
from clouds.aws.market import Room
from clouds.aws.world import World

Environ = dict[str, Any]


class Control:
    def __init__(self, world: World, calls: Callable[[], list[Call]]) -> None:
        self._world, self._calls = world, calls

    def __call__(self, environ: Environ, start: answers.Start) -> list[bytes]:
        verb = environ["PATH_INFO"].rsplit("/", 1)[-1]
        said = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        method = getattr(self, verb, None)
        if verb.startswith("_") or method is None:
            return answers.plain(start, {"error": f"no verb {verb!r}"}, 404)
        try:
            return answers.plain(start, method(**json.loads(said or b"{}")))
        except Exception as error:  # the test shall read what went wrong here
            return answers.plain(start, {"error": f"{error}", "traceback": traceback.format_exc()}, 500)

    def fault(self, **what: Any) -> None:
        self._world.faults.add(Fault(**what))

    def clear_faults(self) -> None:
        self._world.faults.clear()

    def calls(self) -> list[dict[str, Any]]:
        return [call.record() for call in list(self._calls())]

    def rented(self) -> list[dict[str, Any]]:
        return [machine.record() for machine in self._world.machines.all()]

    def fired(self) -> list[dict[str, Any]]:
        return self._world.fired

    def user_data(self, id: str) -> str:
        said = self._world.machines.get(id).instance.user_data
        return base64.b64decode(str(said or "")).decode()

    def timing(self, **seconds: float) -> None:
        for name, value in seconds.items():
            if not hasattr(self._world.timing, name):
                raise ValueError(f"timing has no {name!r}")
            setattr(self._world.timing, name, value)

    def capacity(self, machines: int, type: str = "*", zone: str = "*", market: str = "*") -> None:
        self._world.market.limit(Room(type, zone, market, machines))

    def quota(self, code: str, vcpus: float, region: str = "us-east-1") -> None:
        self._world.market.set_quota(region, code, vcpus)

    def spot_price(self, type: str, zone: str, dollars: float) -> None:
        self._world.market.set_spot_price(type, zone, dollars)

    def enforce(self, on: bool) -> None:
        self._world.guard.enforcing = on

    def decisions(self) -> list[dict[str, Any]]:
        return self._world.guard.decisions()

    def end_from_inside(self, id: str) -> None:
        self._world.machines.is_down(self._machine(id))

    def interrupt(self, id: str, notice_s: float = 120.0) -> None:
        self._world.machines.interrupt(self._machine(id), notice_s)

    def freeze(self, id: str, frozen: bool) -> None:
        self._hosts().freeze(self._machine(id), frozen)

    def partition(self, id: str, cut: bool) -> None:
        self._hosts().partition(self._machine(id), cut)

    def crash(self, id: str) -> None:
        self._hosts().crash(self._machine(id))

    def console(self, id: str) -> str:
        said: bytes = self._hosts().console(self._machine(id))
        return said.decode(errors="replace")

    def _hosts(self) -> Any:
        power = self._world.machines.power
        if not hasattr(power, "freeze"):
            raise LookupError("this cloud has no hosts: AwsCloud(hosts=True)")
        return power

    def reset(self, hosts: bool | None = None) -> None:
        self._world.reset()
        if hosts is not None:
            self._world.machines.run(hosts)
        self._calls().clear()

    def _machine(self, id: str) -> Machine:
        return self._world.machines.get(id)
