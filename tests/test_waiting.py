"""Calls side by side, and those that never come back."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from sojourn.waiting import SystemClock

HANGS = """
import time
from sojourn.waiting import SystemClock
hang = lambda: SystemClock().together([lambda: time.sleep(60)] * 3)
print(SystemClock().within(0.2, [hang, lambda: [7]]))
"""


def test_a_call_that_hangs_keeps_neither_the_others_nor_the_command_from_their_end() -> None:
    begun = time.monotonic()
    said = subprocess.run([sys.executable, "-c", HANGS], check=True, capture_output=True, text=True, timeout=30)
    assert said.stdout == "[None, [7]]\n" and time.monotonic() - begun < 10


def test_answers_come_in_order_and_the_first_error_counts_once_all_have_ended() -> None:
    ended: list[int] = []

    def call(number: int) -> int:
        time.sleep(0.001 * (70 - number))
        ended.append(number)
        if number in (3, 5):
            raise ValueError(number)
        return number

    clock = SystemClock()
    calls = [lambda number=number: call(number) for number in range(70)]
    with pytest.raises(ValueError, match="3"):
        clock.together(calls)
    assert sorted(ended) == list(range(70))
    assert clock.together(calls[10:]) == list(range(10, 70)) == clock.within(5.0, calls[10:])
    assert clock.together([]) == []
