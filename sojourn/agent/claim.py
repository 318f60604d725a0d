"""Which of its lease's machines this one is, settled among the machines themselves.

Amazon numbers the machines of one request, but does not say that it does so for spot machines,
each of which has a request of its own. So a machine takes its number by writing it down where
nobody can write it twice, the number that Amazon gave it first.
"""

from __future__ import annotations

import json
from typing import Iterator

from sojourn.agent.errors import Exists, Refused, say
from sojourn.agent.files import Json
from sojourn.agent.host.clock import HOST, Clock
from sojourn.agent.mailbox import attempt_prefix
from sojourn.agent.stores.store import Store

PAUSE_S = 2.0


def claim(store: Store, boot: Json, index: int, identity: str, clock: Clock = HOST) -> int:
    """The number of this machine; `index` where nobody else has it.

    Raises Refused when all are taken, or the store does not answer for as long as an order is waited for.
    """
    if boot["nodes"] == 1:
        return 0
    body = json.dumps({"identity": identity}).encode()
    until = clock.monotonic() + boot["order_wait_s"]
    for number in _numbers(index, boot["nodes"]):
        if _is_ours(store, _key(boot, number), body, until, clock):
            return number
    raise Refused(f"each of the {boot['nodes']} machines of {boot['lease']} has its number, and {identity} has none")


def _numbers(index: int, nodes: int) -> Iterator[int]:
    if index < nodes:
        yield index
    yield from (number for number in range(nodes) if number != index)


def _key(boot: Json, number: int) -> str:
    return f"{attempt_prefix(boot)}/{number}/claim.json"


def _is_ours(store: Store, key: str, body: bytes, until: float, clock: Clock) -> bool:
    while True:
        try:
            return _written(store, key, body)
        except OSError as error:
            say(f"the store does not take it: {error}")
            if clock.monotonic() > until:
                raise Refused(f"the store cannot be written: {error.strerror}") from error
        clock.sleep(PAUSE_S)


def _written(store: Store, key: str, body: bytes) -> bool:
    try:
        store.create(key, body)
    except Exists:
        return store.find(key) == body  # by this machine, whose answer was lost
    return True
