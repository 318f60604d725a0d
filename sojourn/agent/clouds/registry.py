"""The kinds of machines by the name that a boot record gives; each is loaded where an agent runs on one."""

from __future__ import annotations

from importlib import import_module
from typing import cast

from sojourn.agent.clouds.machine import Machine
from sojourn.agent.errors import Refused

MACHINES = {
    None: ("sojourn.agent.clouds.machine", "Machine"),
    "container": ("sojourn.agent.clouds.machine", "Container"),
    "ec2": ("sojourn.agent.clouds.ec2", "Ec2"),
}


def open_machine(kind: str | None) -> Machine:
    """Return the machine that this agent runs on. Raises Refused for a kind that it does not know."""
    if kind not in MACHINES:
        raise Refused(f"this agent knows no machine of the kind {kind!r}: another version of Sojourn rented it")
    module, name = MACHINES[kind]
    return cast(Machine, getattr(import_module(module), name)())
