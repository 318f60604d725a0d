"""The machine's sign of life: a count, the phase it is in, and how far the fetching has come."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable

from sojourn.agent.errors import say
from sojourn.agent.mailbox import Place, dump
from sojourn.agent.store import Store

BEAT_S = 2.0  # where a beat costs a request, some of the store's own steps
PACES = 3


class Heart:
    """Beats by itself from `start` to `stop`, in a thread of its own."""

    def __init__(self, store: Store, place: Place, progress: Callable[[], tuple[int, int]]) -> None:
        self._store = store
        self._place = place
        self._progress = progress
        self._beats = itertools.count(1)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.phase = "waiting"

    def start(self) -> None:
        """The first beat is sent at once."""
        self._thread.start()

    def stop(self) -> None:
        """One last beat, of the phase that is reached now."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join(1.0)
        self._beat()

    def _run(self) -> None:
        self._beat()
        while not self._over.wait(max(BEAT_S, PACES * self._store.pace_s)):
            self._beat()

    def _beat(self) -> None:
        done, total = self._progress()
        beat = {"count": next(self._beats), "at": time.time(), "phase": self.phase}
        beat.update(bytes_done=done, bytes_total=total)
        try:
            self._store.put(self._place.key("beat.json"), dump(beat))
        except OSError as error:
            say(f"no beat: {error}")
