"""The simulated Amazon for a program that runs in real time: every call is counted, and takes as long as it would."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from threading import Lock
from typing import Any

from simulation.amazon import Amazon, Pages
from simulation.faults import Faults
from simulation.world import World


class RealTime(World):
    """A world in which nothing happens by itself, and whose time is this computer's."""

    @property
    def now(self) -> float:  # type: ignore[override]
        return time.time()

    @now.setter
    def now(self, _: float) -> None:
        pass


class CountedAmazon:
    """Stands for `sojourn.clouds.aws.clients.Clients`; of one account, with no process of the simulation."""

    region = "us-east-1"
    account = "123456789012"

    def __init__(self, delay_s: float = 0.0) -> None:
        self.amazon = Amazon(RealTime(), Faults(), start=lambda _: None, stop=lambda _: None)
        self.delay_s = delay_s
        self.calls: Counter[str] = Counter()
        self.refuses: Callable[[str, dict[str, Any]], Exception | None] = lambda action, what: None
        self._lock = Lock()

    def client(self, service: str, region: str | None = None) -> _Client:
        return _Client(self, region or self.region)

    def now(self) -> float | None:
        return time.time()

    def answer(self, action: str, region: str, **what: Any) -> Any:
        """One call: on its way, and then what the account does."""
        time.sleep(self.delay_s)
        with self._lock:
            self.calls[action] += 1
            refusal = self.refuses(action, what)
            if refusal is not None:
                raise refusal
            return getattr(self.amazon, action)(region, **what)


class _Client:
    class exceptions:  # noqa: N801 - boto3's own name
        class ResourceNotFoundException(Exception):  # noqa: N818 - Amazon's
            pass

    def __init__(self, counted: CountedAmazon, region: str) -> None:
        self._counted = counted
        self._region = region

    def __getattr__(self, action: str) -> Callable[..., Any]:
        return lambda **what: self._counted.answer(action, self._region, **what)

    def get_paginator(self, action: str) -> _Listing:
        return _Listing(self._counted, action, self._region)


class _Listing(Pages):
    """Looked up once, and counted and waited for by the page."""

    def __init__(self, counted: CountedAmazon, action: str, region: str) -> None:
        self._counted, self._action, self._region = counted, action, region

    def paginate(self, PaginationConfig: dict[str, int] | None = None, **what: Any) -> Iterator[dict[str, Any]]:
        whole = self._counted.answer(self._action, self._region, **what)
        for number, page in enumerate(Pages(lambda: whole).paginate(PaginationConfig)):
            if number:
                time.sleep(self._counted.delay_s)
                self._counted.calls[self._action] += 1
            yield page
