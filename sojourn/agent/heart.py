"""The machine's sign of life: a count, the phase it is in, and how far the fetching has come."""

from __future__ import annotations

import itertools
from collections.abc import Callable

from sojourn.agent.errors import say
from sojourn.agent.files import Json
from sojourn.agent.host.clock import HOST, Clock
from sojourn.agent.mailbox import Place, dump
from sojourn.agent.stores.store import Store

BEAT_S = 2.0  # where a beat costs a request, some of the store's own steps
PACES = 3


class Heart:
    """Beats by itself from `start` to `stop`."""

    def __init__(
        self, store: Store, place: Place, progress: Callable[[], tuple[int, int]], clock: Clock = HOST
    ) -> None:
        self._store = store
        self._place = place
        self._progress = progress
        self._beats = itertools.count(1)
        self._clock = clock
        self._still: Callable[[], None] = lambda: None
        self.phase = "waiting"
        self.leaving: Callable[[], list[Json]] = list

    def start(self) -> None:
        """The first beat is sent at once."""
        self._still = self._clock.every(max(BEAT_S, PACES * self._store.pace_s), self._beat)

    def stop(self) -> None:
        """One last beat, of the phase that is reached now."""
        self._still()
        self._beat()

    def _beat(self) -> None:
        done, total = self._progress()
        beat = {"count": next(self._beats), "at": self._clock.now(), "phase": self.phase}
        beat.update(bytes_done=done, bytes_total=total, leaving=self.leaving())
        try:
            self._store.put(self._place.key("beat.json"), dump(beat))
        except OSError as error:
            say(f"no beat: {error}")
