"""Answers that many threads share which ask for the same at about the same time.

A process may follow hundreds of runs, each in a thread that knows nothing of the others; what they look at is one
account, or one host. A thread that asks alone is given an answer of its own each time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from sojourn.errors import TransientError
from sojourn.waiting import Clock

T = TypeVar("T")
AROUND_S = 30.0  # who has asked since then will ask again


class Shared(Generic[T]):
    """What is known of many names, all of which one question tells of."""

    def __init__(self, clock: Clock, good_for_s: float) -> None:
        self._clock = clock
        self._good_for_s = good_for_s
        self._lock = threading.RLock()
        self._asked: dict[str, tuple[float, int]] = {}  # when, and by which thread
        self._at = float("-inf")
        self._known: frozenset[str] = frozenset()  # of which the last answer would tell
        self._found: dict[str, T] | TransientError | None = None

    def of(self, name: str, ask: Callable[[Sequence[str]], dict[str, T]]) -> T | None:
        """What is known of this name, not longer ago than it is good for; None where the answer does not tell of it.

        Raises what the question did. One that failed for another reason than that nobody answered may have failed for
        the sake of another name, and is asked again for this one alone.
        """
        with self._lock:
            now = self._clock.monotonic()
            lately = {one: asked for one, asked in self._asked.items() if now - asked[0] < AROUND_S}
            self._asked = lately | {name: (now, threading.get_ident())}
            if len({thread for _, thread in self._asked.values()}) > 1:
                new = name not in self._known and self._found is not None
                if now - self._at >= self._good_for_s or new:
                    self._ask(now, ask)
                if isinstance(self._found, TransientError):
                    raise TransientError(self._found.message, hint=self._found.hint) from self._found
                if self._found is not None:
                    return self._found.get(name)
        return ask([name]).get(name)

    def _ask(self, now: float, ask: Callable[[Sequence[str]], dict[str, T]]) -> None:
        names = sorted(self._asked)
        self._at, self._known, self._found = now, frozenset(names), None
        try:
            self._found = ask(names)
        except TransientError as error:
            self._found = error
        except Exception:  # told to whoever asks alone
            self._found = None
