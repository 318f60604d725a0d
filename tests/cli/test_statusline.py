"""The line that says how a run stands, at any width."""

from __future__ import annotations

from typing import Any

import pytest
from rich.cells import cell_len

from cli.statusline import clock, status_line
from sojourn.watch.follower import Status


def status(**more: Any) -> Status:
    """A run that has reported all there is."""
    known: dict[str, Any] = {
        "run": "quiet-heron-7f3a",
        "project": "digits",
        "phase": "running",
        "at": 0.0,
        "elapsed_s": 100.0,
        "left_s": 4500.0,
        "step": 3410.0,
        "steps": 10000.0,
        "rate": 18.43,
        "values": {"loss": 0.21349, "accuracy": 0.974, "lr": 3e-4},
        "cost": 0.214,
        "ceiling": 3.24,
        "curve": (2.0, 1.0, 0.5),
    }
    return Status(**{**known, **more})


def test_a_wide_terminal_shows_all_of_it() -> None:
    assert status_line(status(), 0, 160).plain == (
        "step 3,410/10,000  18.4 steps/s  loss 0.2135  █▃▁  accuracy 0.974  lr 0.0003  1h 15m left  "
        "$0.21 of at most $3.24"
    )


@pytest.mark.parametrize("width", range(1, 130, 3))
def test_it_never_exceeds_the_width(width: int) -> None:
    assert cell_len(status_line(status(), 0, width).plain) <= width


def test_a_narrow_terminal_shows_where_it_is_and_the_loss() -> None:
    assert status_line(status(), 0, 32).plain == "step 3,410/10,000  loss 0.2135"


def test_what_nobody_reported_is_not_there() -> None:
    line = status_line(status(step=None, steps=None, rate=None, values={}, curve=(), ceiling=0.0), 0, 100)
    assert line.plain == "1h 15m left"


def test_a_machine_that_costs_nothing_shows_no_money() -> None:
    assert "$" not in status_line(status(ceiling=0.0), 0, 160).plain


def test_a_loss_that_is_no_number_any_more_is_said() -> None:
    assert "loss not finite" in status_line(status(values={"loss": None}), 0, 100).plain


def test_the_time_left_goes_on_between_two_reports() -> None:
    assert "8:20 left" in status_line(status(left_s=510.0), 10.0, 100).plain


def test_a_slow_script_has_seconds_a_step() -> None:
    assert "12.5 s/step" in status_line(status(rate=0.08), 0, 100).plain


def test_before_it_runs_it_says_what_the_machine_does() -> None:
    fetching = status(phase="fetching", bytes_done=45_000_000, bytes_total=1_900_000_000, values={}, curve=())
    assert status_line(fetching, 0, 100).plain.startswith("fetching 45 MB of 1.9 GB")


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0:00"), (62, "1:02"), (3723, "1:02:03")])
def test_a_clock_counts_like_a_stopwatch(seconds: float, text: str) -> None:
    assert clock(seconds) == text
