"""What moto does otherwise than Amazon, mended; one module for each subject.

A repair replaces one method of a class of moto's and gets the method that it replaces:

    @repair(EC2Response, "run_instances")
    def run_instances(world, response, original): ...

Methods of response classes are API actions: what they return or raise, moto turns into the
protocol's own form. Every repair has a test that fails on bare moto (`tests/clouds/test_*.py`,
run with `STAND_IN_BARE=1`).
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from clouds.aws.world import World

Replacement = Callable[..., Any]


@dataclass(frozen=True)
class Repair:
    owner: type
    method: str
    replacement: Replacement

    def install(self, world: World) -> None:
        original = getattr(self.owner, self.method, None)
        replacement = self.replacement

        def method(self_: Any, *args: Any, **kwargs: Any) -> Any:
            before = partial(original, self_) if original else None
            return replacement(world, self_, before, *args, **kwargs)

        method.__name__ = self.method
        setattr(self.owner, self.method, method)


_REPAIRS: list[Repair] = []


def repair(owner: type, method: str) -> Callable[[Replacement], Replacement]:
    """Register a function as the replacement of a method, which moto may lack."""

    def register(replacement: Replacement) -> Replacement:
        _REPAIRS.append(Repair(owner, method, replacement))
        return replacement

    return register


def install(world: World) -> None:
    """Mend moto in this process; once, before its first request."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    for one in _REPAIRS:
        one.install(world)
