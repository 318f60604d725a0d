"""Checkpoints are taken whole, under the same number on every node, and complete when all have theirs.

Rank 0's node numbers them and writes the commit; the others take theirs under its number.
"""

from __future__ import annotations

import contextlib
from typing import Callable

from sojourn.agent.clock import HOST, Clock
from sojourn.agent.errors import Exists
from sojourn.agent.files import Json
from sojourn.agent.keep import Keeper
from sojourn.agent.mailbox import Place, dump
from sojourn.agent.manifests import Manifests
from sojourn.agent.patterns import Patterns
from sojourn.agent.store import Store
from sojourn.agent.tree import Sign

KEPT = 2  # of the complete ones; what is newer and not complete yet is kept besides


class Checkpoints:
    """One node's part in them."""

    def __init__(
        self,
        store: Store,
        place: Place,
        order: Json,
        keeper: Keeper,
        being_written: Callable[[], set[int]],
        clock: Clock = HOST,
    ) -> None:
        self._store = store
        self._place = place
        self._keeper = keeper
        self._being_written = being_written
        self._clock = clock
        self._patterns = Patterns(order["checkpoint"])
        self._resumed = [entry for entry in order["inputs"] if entry["source"].startswith("machine/")]
        self._manifests = Manifests(store, place, "ckpt", clock)
        self._last: dict[str, Sign] = {}
        self._completed = 0
        self.behind = False  # whether there is a newer one than was taken at the last look
        self.shared = len(order["nodes"]) > 1 and bool(order["checkpoint"])

    @property
    def sequence(self) -> int:
        """The number of this node's newest."""
        return self._manifests.sequence

    def match(self, path: str) -> bool:
        """Whether the file belongs to a checkpoint."""
        return self._patterns.match(path)

    def lead(self, changed: dict[str, Sign], quiet: float, now: float | None) -> None:
        """On rank 0's node: take a new one if there is one."""
        files = self._of(changed)
        if files and files != self._last:
            entries = self._whole(files, quiet, now)
            if entries is not None:
                self._manifests.write(entries)
                self._last = files
        self.behind = files != self._last
        self.complete()

    def wanted(self) -> bool:
        """On any other node: whether rank 0's has taken one that this node has not."""
        return self._place.first.exists(f"ckpt/{self.sequence + 1:08d}.json")

    def follow(self, changed: dict[str, Sign], quiet: float, now: float | None) -> bool:
        """Take this node's part of it; False when it is still being written."""
        entries = self._whole(self._of(changed), quiet, now)
        if entries is None:
            return False
        self._manifests.write(entries)
        return True

    def complete(self) -> None:
        """Write, or on the other nodes note, the commits of what every node has by now."""
        while self._completed < self.sequence:
            number = self._completed + 1
            if self._place.rank > 0:
                if not self._place.first.exists(f"commit/{number:08d}.json"):
                    return
            elif not self._commit(number):
                return
            self._completed = number

    def settled(self) -> bool:
        """Whether nothing is left to wait for: all is complete, or rank 0's node has gone."""
        if self._place.rank == 0:
            return self._completed == self.sequence
        return self._place.first.exists("exit.json")

    def sources(self) -> set[str]:
        """The blobs of those that are kept."""
        return self._manifests.sources_since(self._completed - KEPT + 1)

    def _of(self, changed: dict[str, Sign]) -> dict[str, Sign]:
        return {path: sign for path, sign in changed.items() if self.match(path)}

    def _whole(self, files: dict[str, Sign], quiet: float, now: float | None) -> list[Json] | None:
        """The checkpoint's lines; None while a file of it is being written, or was in the last seconds before `now`."""
        now_ns = int((now or self._clock.now()) * 1e9)
        if any(now_ns - sign.mtime_ns < quiet * 1e9 for sign in files.values()):
            return None
        if self._being_written() & {sign.inode for sign in files.values()}:
            return None
        entries = [self._keeper.entry(path, sign) for path, sign in sorted(files.items())]
        if not all(self._keeper.holds(path, sign) for path, sign in files.items()):
            return None
        # What an earlier attempt left and this one did not touch is part of it.
        return [entry for entry in entries if entry] + [e for e in self._resumed if e["path"] not in files]

    def _commit(self, number: int) -> bool:
        if not all(node.exists(f"ckpt/{number:08d}.json") for node in self._place.nodes):
            return False
        body = {"sequence": number, "at": self._clock.now(), "nodes": len(self._place.nodes)}
        with contextlib.suppress(Exists):
            self._store.create(self._place.key(f"commit/{number:08d}.json"), dump(body), durable=True)
        return True
