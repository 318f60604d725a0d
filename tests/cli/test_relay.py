"""What a run says is passed on in order by a thread of its own, and a reader that does not read holds nobody up."""

from __future__ import annotations

import threading
import time

import pytest

from cli.progress import SilentListener
from cli.relay import Relay


class Reader(SilentListener):
    """Writes down what it is told; while `shut` it takes nothing."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.open = threading.Event()
        self.open.set()

    def script(self, node: int, data: bytes) -> None:
        self.open.wait()
        self.told.append(f"{node}:{data.decode()}")

    def note(self, text: str) -> None:
        self.open.wait()
        self.told.append(text)

    def finished(self, step: str, text: str, seconds: float, good: bool = True) -> None:
        self.told.append(f"{step} {text}")


def test_all_of_it_comes_in_order() -> None:
    reader = Reader()
    relay = Relay(reader, limit=1000)
    relay.note("first")
    for number in range(3):
        relay.script(0, f"{number}\n".encode())
    relay.script(1, b"other\n")
    relay.finished("train", "done", 1.0)
    relay.drain()
    assert "".join(reader.told[1:-2]).replace("0:", "") == "0\n1\n2\n"
    assert (reader.told[0], *reader.told[-2:]) == ("first", "1:other\n", "train done")


def test_what_a_reader_does_not_take_is_dropped_counted_and_told() -> None:
    reader = Reader()
    relay = Relay(reader, limit=1000)
    relay.run = "calm-heron-7f3a"
    reader.open.clear()
    relay.note("shut")
    began = time.monotonic()
    for number in range(10_000):
        relay.script(0, f"line {number:05}\n".encode())
    relay.finished("train", "done", 1.0)
    assert time.monotonic() - began < 2, "nobody waits for the reader"
    reader.open.set()
    relay.drain()
    shown = "".join(one for one in reader.told if one.startswith("0:")).count("\n")
    (dropped,) = [one for one in reader.told if "not shown" in one]
    assert dropped == f"… {10_000 - shown:,} lines not shown: sojourn logs calm-heron-7f3a"
    assert 0 < shown < 100 and reader.told[-2].endswith("line 09999\n") and reader.told[-1] == "train done"


def test_one_line_without_end_is_cut_too() -> None:
    reader = Reader()
    relay = Relay(reader, limit=1000)
    reader.open.clear()
    relay.note("shut")
    relay.script(0, b"x" * 5000)
    reader.open.set()
    relay.drain()
    assert reader.told[1:] == ["… part of a line not shown: sojourn logs last", "0:" + "x" * 500]


def test_a_reader_that_takes_nothing_is_not_waited_for_without_end() -> None:
    reader = Reader()
    relay = Relay(reader, limit=1000)
    reader.open.clear()
    relay.note("shut")
    began = time.monotonic()
    relay.drain(patience_s=0.3)
    assert 0.2 < time.monotonic() - began < 2
    reader.open.set()


@pytest.mark.parametrize("error", [OSError("gone"), ValueError("closed")])
def test_a_reader_that_fails_is_told_the_rest(error: Exception) -> None:
    reader = Reader()
    relay = Relay(reader, limit=1000)

    def fail(text: str) -> None:
        raise error

    reader.warn = fail  # type: ignore[method-assign]
    relay.warn("x")
    relay.note("then")
    relay.drain()
    assert reader.told == ["then"]
