"""The numbered commits of one node: each names whole files, and none is ever changed."""

from __future__ import annotations

import contextlib

from sojourn.agent.errors import Exists
from sojourn.agent.files import Json
from sojourn.agent.host.clock import HOST, Clock
from sojourn.agent.mailbox import Place, dump
from sojourn.agent.stores.store import Store


class Manifests:
    """The commits of one kind: `out`, `ckpt` or `kept`.

    `in_step`: other nodes count along, so that no number may be left out.
    """

    def __init__(self, store: Store, place: Place, kind: str, clock: Clock = HOST, in_step: bool = False) -> None:
        self._store = store
        self._place = place
        self._kind = kind
        self._clock = clock
        self._in_step = in_step
        self._sources: dict[int, set[str]] = {}
        self.sequence = 0  # of the newest
        self.newest: list[Json] = []

    def write(self, entries: list[Json], **more: object) -> None:
        """Commit these files under the next number that is free; `more` is told with them."""
        named = {entry["source"] for entry in entries}
        step = 1
        while True:
            number = self.sequence + step
            # Before the attempt: a manifest whose answer is lost may stand all the same.
            self._sources.setdefault(number, set()).update(named)
            body = {"sequence": number, "at": self._clock.now(), "files": entries, **more}
            with contextlib.suppress(Exists):
                self._store.create(self._place.key(f"{self._kind}/{number:08d}.json"), dump(body), durable=True)
                break
            if self._in_step:
                self.sequence = number
            else:  # whoever has written a thousand of ours, to have us count them, has us count to ten
                step *= 2
        self.sequence, self.newest = number, entries

    def sources_since(self, sequence: int) -> set[str]:
        """The blobs that a commit of this number or a later one names; the earlier ones are forgotten."""
        self._sources = {number: sources for number, sources in self._sources.items() if number >= sequence}
        return set().union(*self._sources.values())
