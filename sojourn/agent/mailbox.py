"""Where a machine's objects and those of its peers lie in the store; `sojourn/store/mailbox.py` is the other side."""

from __future__ import annotations

import json

from sojourn.agent.errors import Refused
from sojourn.agent.files import Json
from sojourn.agent.stores.store import Store


class Place:
    """Where this node's objects lie in the store, and the other nodes'."""

    def __init__(self, store: Store, boot: Json, node: int) -> None:
        self._store = store
        self._attempt = attempt_prefix(boot)
        told = orders_prefix(boot)
        self._lease = boot["lease"]
        self.node = node
        self.rank = 0
        self.name = f"{boot['lease']}-n{node}"
        self.blobs = self.key("blob")
        self.order = f"{told}/order/{boot['attempt']}.json"
        self._requests = f"{told}/exec/{boot['attempt']}"
        self.stop = f"{told}/stop.json"
        self.nodes: list[Peer] = []

    def rank_by(self, names: list[str]) -> None:
        """Take this machine's rank from the order's list of machine names."""
        if self.name not in names:
            raise Refused(f"the order is for {', '.join(names)} and not for {self.name}")
        self.rank = names.index(self.name)
        self.nodes = [Peer(self._store, f"{self._attempt}/{name.rpartition('-n')[2]}") for name in names]

    def exec(self, number: int) -> str:
        """The key of a command that somebody sends to a machine of this attempt."""
        return f"{self._requests}/{number:08d}.json"

    @property
    def first(self) -> Peer:
        """The node that holds rank 0."""
        return self.nodes[0]

    @property
    def others(self) -> list[Peer]:
        """Every node but this one."""
        return [peer for rank, peer in enumerate(self.nodes) if rank != self.rank]

    def key(self, name: str) -> str:
        """The key of one of this node's objects."""
        return f"{self._attempt}/{self.node}/{name}"


class Peer:
    """One node's objects, to be looked at."""

    def __init__(self, store: Store, prefix: str) -> None:
        self._store = store
        self._prefix = prefix

    def exists(self, name: str) -> bool:
        """Whether the node has written this."""
        return self._store.exists(f"{self._prefix}/{name}")

    def end(self) -> Json:
        """The node's last words, empty while it has said none."""
        body = self._store.find(f"{self._prefix}/exit.json")
        if body is None:
            return {}
        end = parse(body)
        if end is None or not isinstance(end.get("reason"), str):
            return {"reason": "fault", "exit_code": None, "message": "its last words cannot be read"}
        return end

    def failure(self) -> str | None:
        """What ended the node, unless it is alive or its script succeeded."""
        end = self.end()
        if not end or (end["reason"] == "exited" and end.get("exit_code") == 0):
            return None
        return f"node {self._prefix.rpartition('/')[2]} ended first: {end.get('message') or end['reason']}"


def parse(body: bytes | None) -> Json | None:
    """The record that somebody else wrote; None for none, and for what is empty, cut off or no record at all."""
    try:
        value = json.loads(body) if body else None
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def attempt_prefix(boot: Json) -> str:
    """Below this the machines of an attempt write; runs of earlier versions have no place that nobody can guess."""
    return f"machine/{boot['project']}/{_folder(boot)}/{boot['attempt']}"


def orders_prefix(boot: Json) -> str:
    """Below this lies what the machines of a run are told."""
    return f"{'orders' if boot.get('place') else 'control'}/{boot['project']}/{_folder(boot)}"


def _folder(boot: Json) -> str:
    place = boot.get("place")
    return f"{place}-{boot['run']}" if place else str(boot["run"])


def is_restored(source: str) -> bool:
    """Whether a file of an order is of a checkpoint: as another attempt left it, or brought from another run.

    Everything else that a key names lies by its hash among what runs share.
    """
    return source.startswith("machine/") or (source.startswith(("orders/", "control/")) and "/restored/" in source)


def dump(record: Json) -> bytes:
    """A record as the control side reads it."""
    return json.dumps(record, indent=1).encode()
