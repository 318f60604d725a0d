"""The numbered pieces that a machine writes of its log and of its numbers, read one by one or many at once.

Who keeps up with a machine asks for the next piece; who comes late finds most of them in
packs (`sojourn/agent/results/packs.py`). Pieces stay where they are, so a pack that is gone or cannot
be read costs requests alone.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

from sojourn.decoding import decode_object
from sojourn.errors import UnreadableError
from sojourn.protocol import Segment
from sojourn.store.storage import Store

BEHIND = 4  # who finds so many in a row is behind, and looks for packs; who begins at the first one is so at once
LOOK_AGAIN = 64
AT_ONCE = 16
TRIES = 3


class _Span(NamedTuple):
    """Which pieces a pack holds, by its name."""

    first: int
    end: int
    key: str


class Pieces:
    """One node's pieces of a kind."""

    def __init__(self, store: Store, prefix: str, packs: str, suffix: str = "") -> None:
        self._store = store
        self._prefix = prefix
        self._packs = packs
        self._suffix = suffix
        self._newest: tuple[str, list[Segment]] | None = None  # whoever reads for a moment only comes back for the rest

    def read(self, start: int = 0) -> Iterator[Segment]:
        """The pieces from number `start` (from 0) up to the newest now."""
        number, in_a_row = start, 0
        while True:
            if in_a_row % LOOK_AGAIN == (BEHIND if start else 1):
                for piece in self._packed(number):
                    yield piece
                    number += 1
            for found in self._next(number, AT_ONCE if in_a_row >= LOOK_AGAIN else 1):
                if found is None:
                    return
                yield found
                number, in_a_row = number + 1, in_a_row + 1

    def _next(self, number: int, count: int) -> list[Segment | None]:
        """The next pieces; many at once for whoever is far behind where there are no packs."""
        asked = [partial(self._one, self.key(one)) for one in range(number, number + count)]
        return self._store.clock.together(asked) if count > 1 else [asked[0]()]

    def after(self, number: int) -> int | None:
        """The number of the first piece after one that is not there; None when that was the end."""
        key = self._store.next_key(self._prefix, self.key(number))
        name = key.rsplit("/", 1)[-1].removesuffix(self._suffix) if key else ""
        return int(name) if len(name) == 8 and name.isascii() and name.isdecimal() else None

    def length(self) -> int:
        """How many there are by now."""
        low = max((span.end for span in self._spans()), default=0)
        step = 1
        while self._store.exists(self.key(low + step - 1)):
            low, step = low + step, 2 * step
        while step > 1:  # `low` are there, and of the next `step` not all
            step //= 2
            if self._store.exists(self.key(low + step - 1)):
                low += step
        return low

    def key(self, number: int) -> str:
        """Where a piece lies."""
        return f"{self._prefix}/{number:08d}{self._suffix}"

    def _one(self, key: str) -> Segment | None:
        """One object; in place of one that is far too large, what is wrong with it."""
        try:
            found = self._store.find_dated(key)
        except UnreadableError as error:
            return Segment(f"[{error.message}]\n".encode(), 0.0)
        return Segment(*found) if found else None

    def _packed(self, number: int) -> Iterator[Segment]:
        """The pieces from a number on that are in packs, as far as these follow each other."""
        spans, tries = self._spans(), TRIES
        while here := [span for span in spans if span.first <= number < span.end]:
            span = max(here, key=lambda one: one.end)
            pieces = self._pack(span)
            if pieces is None:
                tries -= 1
                spans = self._spans() if tries else []  # merged into a larger one meanwhile, as a rule
                continue
            yield from pieces[number - span.first :]
            number = span.end

    def _spans(self) -> list[_Span]:
        return [span for key in self._store.keys(self._packs) if (span := _span(key))]

    def _pack(self, span: _Span) -> list[Segment] | None:
        if self._newest is None or self._newest[0] != span.key:
            body = self._one(span.key)
            pieces = _pieces(body.body, span) if body is not None else None
            if pieces is None:
                return None
            self._newest = span.key, pieces
        return self._newest[1]


def _span(key: str) -> _Span | None:
    first, _, count = key.rsplit("/", 1)[-1].partition("-")
    if not all(text.isascii() and text.isdecimal() and len(text) < 12 for text in (first, count)) or not int(count):
        return None
    return _Span(int(first), int(first) + int(count), key)


def _pieces(body: bytes, span: _Span) -> list[Segment] | None:
    """What a pack holds; None when it is not what its name says."""
    head, _, rest = body.partition(b"\n")
    try:
        told = decode_object(head, span.key)
    except UnreadableError:
        return None
    sizes, times = _numbers(told.get("sizes")), _numbers(told.get("times"))
    whole = len(sizes) == len(times) == span.end - span.first and sum(sizes) == len(rest)
    if told.get("first") != span.first or not whole or any(size != int(size) for size in sizes):
        return None
    ends = list(itertools.accumulate(int(size) for size in sizes))
    return [Segment(rest[a:b], at) for a, b, at in zip([0, *ends], ends, times, strict=False)]


def _numbers(values: object) -> list[float]:
    """The numbers of such a list; none when any of them is odd."""
    if not isinstance(values, list) or not all(type(one) in (int, float) for one in values):
        return []
    try:
        found = [float(one) for one in values]
    except OverflowError:
        return []
    return found if all(math.isfinite(one) and one >= 0 for one in found) else []
