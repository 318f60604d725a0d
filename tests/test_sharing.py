"""Many threads that look at one account: one question for all, and none for the sake of another's trouble."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from sojourn.errors import AccessError, SojournError, TransientError
from sojourn.sharing import AROUND_S, Shared
from sojourn.waiting import SystemClock


class Still(SystemClock):
    """A clock that stands until it is told."""

    at = 0.0

    def monotonic(self) -> float:
        return self.at


class Asked:
    """Who answers with the time, and remembers what for."""

    def __init__(self) -> None:
        self.clock = Still()
        self.shared: Shared[float] = Shared(self.clock, good_for_s=2.0)
        self.names: list[list[str]] = []
        self.threads: dict[str, ThreadPoolExecutor] = {}
        self.trouble: Callable[[Sequence[str]], None] = lambda names: None

    def answer(self, names: Sequence[str]) -> dict[str, float]:
        self.names.append([*names])
        self.trouble(names)
        return dict.fromkeys(names, self.clock.at)

    def of(self, name: str, at: float) -> float | str | None:
        """As a thread hears it that asks for this name alone."""
        self.clock.at = at
        return self.threads.setdefault(name, ThreadPoolExecutor(1)).submit(self._of, name).result()

    def _of(self, name: str) -> float | str | None:
        try:
            return self.shared.of(name, self.answer)
        except SojournError as error:
            return f"{type(error).__name__}: {error.message}"


@pytest.fixture
def asked() -> Asked:
    return Asked()


def test_threads_that_look_at_the_same_time_share_a_question_and_one_that_is_alone_has_its_own(asked: Asked) -> None:
    assert asked.shared.of("a", asked.answer) == 0.0 and asked.shared.of("b", asked.answer) == 0.0
    assert asked.names == [["a"], ["b"]], "a thread of its own, whatever it asks for"
    assert asked.of("c", 1.0) == 1.0 and asked.names[2:] == [["a", "b", "c"]]
    assert asked.of("a", 2.0) == 1.0 and asked.of("b", 2.5) == 1.0 and len(asked.names) == 3
    assert asked.of("a", 3.1) == 3.1, "no older than they are good for"
    assert asked.of("d", 3.2) == 3.2 and asked.names[-1] == ["a", "b", "c", "d"], "who is new is not told of nothing"
    asked.clock.at += AROUND_S
    assert asked.shared.of("a", asked.answer) == asked.clock.at and asked.names[-1] == ["a"]


def test_where_nobody_answers_all_hear_it_and_another_s_trouble_is_his_own(asked: Asked) -> None:
    asked.of("a", 0.0), asked.of("b", 0.0)

    def away(_: Sequence[str]) -> None:
        raise TransientError("busy")

    def odd(names: Sequence[str]) -> None:
        if "a" in names:
            raise AccessError("odd")

    asked.trouble = away
    assert asked.of("a", 10.0) == asked.of("b", 10.1) == "TransientError: busy"
    assert len(asked.names) == 3
    asked.trouble = odd
    assert asked.of("a", 20.0) == "AccessError: odd" and asked.of("b", 20.1) == 20.1
    assert asked.names[3:] == [["a", "b"], ["a"], ["b"]]
