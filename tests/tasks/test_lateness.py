"""A scheduled run that starts much too late does not begin."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from prefect.runtime import flow_run

from tasks.timetable import too_late


@pytest.mark.parametrize(
    ("late", "limit_s", "said"),
    [
        (timedelta(days=2), 3600.0, "it was due 2d ago, and skip_after is 1h"),
        (timedelta(minutes=10), 3600.0, None),
        (timedelta(days=2), None, None),
        (None, 3600.0, None),
    ],
)
def test_a_run_that_was_due_long_ago_is_skipped(
    monkeypatch: pytest.MonkeyPatch, late: timedelta | None, limit_s: float | None, said: str | None
) -> None:
    due = None if late is None else datetime.now(UTC) - late
    monkeypatch.setitem(flow_run.FIELDS, "scheduled_start_time", lambda: due)
    assert too_late(limit_s) == said
